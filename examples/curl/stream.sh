#!/usr/bin/env bash
# Reads one answer in five ways with curl. GATEWAY_URL is the gateway's URL, the first argument the question.
set -euo pipefail
gateway=${GATEWAY_URL:-http://localhost:3000}
question=${1:-Tell me something}
# In JSON, " and \ have to be escaped.
quoted=\"$(sed 's/[\\"]/\\&/g' <<<"$question")\"
heads=$(mktemp)
trap 'rm -f "$heads"' EXIT

echo "== the text as it is streamed"
curl -sSN --fail-with-body "$gateway/v1/streams" -d "{\"input\":$quoted}" -H 'Accept: text/plain'
echo

echo "== numbered events, the first three lines of them"
# `sed` reads to the end. `head` would exit early and make curl fail.
curl -sSN --fail-with-body "$gateway/v1/streams" -d "{\"input\":$quoted}" -D "$heads" | sed -n 1,3p
stream=$(sed -n 's/^location: *\([^[:cntrl:]]*\).*/\1/Ip' "$heads")

echo "== the same stream again, after event 3"
curl -sSN --fail-with-body "$gateway$stream" -H "Last-Event-ID: ${stream##*/}.3" | sed -n 's/^id: .*\.//p' | sed -n 1p

echo "== as OpenAI's chat completions"
curl -sSN --fail-with-body "$gateway/v1/chat/completions" -H 'Content-Type: application/json' \
  -d "{\"stream\":true,\"messages\":[{\"role\":\"user\",\"content\":$quoted}]}" | tail -n 2

echo "== in the background: start now, read later"
curl -sS --fail-with-body "$gateway/v1/responses" -H 'Content-Type: application/json' -D "$heads" -o /dev/null \
  -d "{\"input\":$quoted,\"background\":true}"
stream=$(sed -n 's/^location: *\([^[:cntrl:]]*\).*/\1/Ip' "$heads")
curl -sSN --fail-with-body "$gateway$stream" -H 'Accept: text/plain'
echo
