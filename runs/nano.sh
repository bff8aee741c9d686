#!/usr/bin/env bash
# Nano from nothing: text, speech, two tokenizers, backbone, vocoder, bundle, evaluation. Two cores, no GPU.
#
#   runs/nano.sh [WORK [BUNDLE]]      defaults: work/nano, models/nano
#
# START=models/nano goes on from that bundle's weights instead of from nothing, FINISHED=linguistic,wave leaves these
# parts of it as they are (docs/training.md).
#
# Started again, it goes on where it was stopped. What each stage does and why: docs/training.md; what was
# tried: docs/lab-log.md. Costs are CPU minutes of one machine (two cores, AVX-512), an *estimate* unless marked
# measured; with both cores free the clock shows about half. Memory: 9 GB; disk: 6 GB.
set -euo pipefail
cd "$(dirname "$0")/.."

work=${1:-work/nano}
bundle=${2:-models/nano}
python=.venv/bin/python
mkdir -p "$work"

# ---- What the recipe needs ----------------------------------------------------------------------------

voices=(flite festival festvox-us-slt-hts festvox-kallpc16k) # question voices of Debian 12
missing=()
for package in "${voices[@]}"; do
  status=$(dpkg-query --show --showformat='${db:Status-Status}' "$package" 2>/dev/null || true)
  [ "$status" = installed ] || missing+=("$package")
done
if [ ${#missing[@]} -gt 0 ] && [ "$(id -u)" -ne 0 ]; then
  echo "error: question voices are not installed: ${missing[*]}" >&2
  echo "as root: apt-get install ${missing[*]}" >&2
  exit 1
elif [ ${#missing[@]} -gt 0 ]; then
  apt-get install --yes --no-install-recommends "${missing[@]}"
fi
make .venv/.ready-train .venv/.ready-eval # the trainers with their teachers, the judges

# Kokoro's speakers. Those that the evaluation keeps for itself are among them and are never read.
styles=$work/kokoro-styles
if [ ! -e "$styles/zm_yunyang.bin" ]; then
  command -v npm > /dev/null || { echo "error: npm is needed to fetch the Kokoro styles" >&2; exit 1; }
  npm pack --silent --pack-destination "$work" kokoro-js@1.2.1
  echo "1f0d0383ef0349af0bd9440d81dc12abbea3a5392eb645283eda876f537f5860  $work/kokoro-js-1.2.1.tgz" |
    sha256sum --check --quiet
  mkdir -p "$styles"
  tar --extract --file "$work/kokoro-js-1.2.1.tgz" --directory "$styles" --strip-components 2 package/voices
fi

# stage PRODUCT NAME: runs training.NAME in the work folder unless its product is there.
stage() {
  echo "== $2 ($1)"
  [ -e "$work/$1" ] || "$python" -m "training.$2" "$work"
}

# ---- Data: texts, split before anything is spoken; then every shard that is missing --------------------

"$python" -m training.corpus "$work" answers,questions 2 #  50  25 191 answers, 30 000 questions
"$python" -m training.corpus "$work" pico,kokoro,strangers 2  # 120  3000 questions by Pico; by Kokoro, the slow one, 3000 and 1200

if [ -n "${START:-}" ] && [ ! -e "$work/start" ]; then
  "$python" -m training.start "$START" "$work" ${FINISHED:+"$FINISHED"}
fi

# ---- Audio tokenizers, and the corpus as tokens ---------------------------------------------------------

stage linguistic.pt linguistic                           #  57  phonemes (42, measured), then through codes (15)
# Where it went on from a bundle its codes have moved: backbone and flow follow. Done again, it is harmless.
if [ -e "$work/start" ]; then "$python" -m training.carry "$work"; fi
# Words cut out of questions, for the backbone and for the next round of this tokenizer. A bundle's lacks the head.
case ",${FINISHED:-}," in
  *,linguistic,*) ;;
  *) "$python" -m training.cutups "$work" 12000 ;;         #   4
esac
stage semantic.pt semantic                               #  27
echo "== tokens (those that are missing)"
"$python" -m training.tokens "$work"                     #  60  answers once, questions twice, Kokoro nine times, vocabulary

# ---- Backbone: pre-training, then SFT-1 ------------------------------------------------------------------

stage sft1.pt backbone                                   # 190
# Later stages have their place here (docs/training.md):
#   stage dpo.pt dpo         masked DPO from sft1: audio positions are no part of the loss
#   stage sft2.pt sft2       a second, short SFT on chosen spoken answers
#   stage merged.pt merge    (5 · SFT1 + 5 · SFT2 + 1 · DPO) / 11, and the refusal reads merged.pt
stage refusal.pt refusal                                 #  23  what cannot be understood is not known (measured)

# ---- Vocoder: tokens to mel, mel to sound ----------------------------------------------------------------

stage flow.pt flow                                       # 100
stage wave-supervised.pt wave                            # 200

# ---- Bundle, and how good it is --------------------------------------------------------------------------

"$python" -m training.export "$work" "$bundle"           #   1
"$python" -m evaluation.nano --bundle "$bundle"          #  60  the reserved voice speaks first, slowly
"$python" -m evaluation.shuffled --bundle "$bundle"      #   5
