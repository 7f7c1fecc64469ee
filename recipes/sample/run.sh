#!/bin/sh
# Makes the sample reader from nothing but MiniLM's package and a folder of data; about an hour on two
# Zen 5 cores. Usage: recipes/sample/run.sh DATA WORK
#   DATA  has knowledgesource.jsonl.gz, nq-train-kilt.jsonl and nq-dev-kilt.jsonl (KILT formats)
#   WORK  a folder for everything that is made; run the same command again to go on after a cut
set -eu
here=$(cd "$(dirname "$0")" && pwd)
data=$(cd "$1" && pwd)
mkdir -p "$2" && cd "$2"
ln -sfn "$data" data

if [ ! -d base ]; then
    python "$here/unpack_minilm.py" minilm
    glimmer convert minilm --output base --live-proportion 1/2 --rerank-proportion 2/3
fi
glimmer encode data/knowledgesource.jsonl.gz --memory wiki.memory --model base
[ -d tasks ] || glimmer tasks wiki.memory --output tasks
[ -d read ] || glimmer train --config "$here/read.toml"
[ -d reader ] || glimmer train --config "$here/reader.toml"
glimmer answer data/nq-dev-kilt.jsonl --memory wiki.memory --model reader --candidates 40 --select 5 \
    --max-answer-tokens 12 --candidates-from retrieval --output dev-predictions.jsonl --report dev.html --restart
glimmer evaluate data/nq-dev-kilt.jsonl dev-predictions.jsonl
