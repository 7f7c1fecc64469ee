#!/bin/sh
# Makes the sample reader from nothing but MiniLM's package and a folder of data; about two and a half hours on two
# AVX2 cores. Usage: recipes/sample/run.sh DATA WORK
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
[ -d silent ] || python "$here/silence.py" base silent
[ -d copy-decoder ] || glimmer train --config "$here/copy.toml"
[ -d reader-1 ] || glimmer train --config "$here/reader-1.toml"
[ -d reader-2 ] || glimmer train --config "$here/reader-2.toml"
[ -d reader-3 ] || glimmer train --config "$here/reader-3.toml"
