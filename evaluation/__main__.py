"""All tables of quality: nano on the test questions, then the shuffled control."""

from evaluation import nano, shuffled

nano.main()
shuffled.main([])
