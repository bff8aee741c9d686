"""The whole product on one machine: `aqaa up`.

plan          what is started how; pure
launcher      the first moments of every child: it must not outlive us
children      one child: its lines, its end, its stop
valkey        the embedded server of the turn log
health        waiting until a service says SERVING
screen        what a person or a log reader sees
supervise     starting all in order, watching, stopping all in order
up            the parts put together
"""
