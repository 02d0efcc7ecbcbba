#!/usr/bin/env bash
# Builds the image of deploy/Dockerfile over a base that debootstrap makes, and runs it. Nothing comes from a registry of images, and
# nothing is left behind. `cargo xtask test --only container` calls it, as root:
#   MIRROR=<mirror of Debian> test.sh <checkout> <release> <tokenwire> <tokenwire-simulator>
set -euo pipefail

checkout=$1 suite=$2 gateway=$3 simulator=$4
here=$PWD/run
image=localhost/tokenwire
running=()

buildah() {
  command buildah --root "$here/storage" --runroot "$here/state" --storage-driver vfs "$@"
}

clean_up() {
  for process in "${running[@]}"; do kill "$process" 2>/dev/null || true; done
  for mounted in $(awk -v here="$here/" 'index($2, here) == 1 { print $2 }' /proc/mounts | sort -r); do umount -l "$mounted" || true; done
  rm -rf --one-file-system "$here"
}
trap clean_up EXIT

fail() {
  echo "$1" >&2
  cat "$here"/*.log >&2 2>/dev/null || true
  exit 1
}

# Waits until a command succeeds, for 30 s.
eventually() {
  for _ in $(seq 300); do
    if "$@" >/dev/null 2>&1; then return; fi
    sleep 0.1
  done
  fail "did not come true: $*"
}

free_port() {
  # The kernel's choice for a socket that is closed at once.
  python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'
}

# The process of the gateway below a `buildah run`.
inner() {
  local process=$1 child
  while child=$(cat /proc/"$process"/task/*/children 2>/dev/null) && [ -n "$child" ]; do process=${child%% *}; done
  echo "$process"
}

# Starts the gateway in the container, with the options of `buildah run` that follow. Its log is $here/gateway.log.
start() {
  buildah run --isolation chroot -v "$here/volume:/var/lib/tokenwire" -e TOKENWIRE_SERVER__PORT="$port" \
    -e TOKENWIRE_STORE__KIND=disk -e TOKENWIRE_STORE__PATH=/var/lib/tokenwire "$@" "$container" -- tokenwire \
    >"$here/gateway.log" 2>&1 &
  outer=$!
  running+=("$outer")
  eventually curl -fsS "localhost:$port/readyz"
}

# Starts it on a read-only root, as compose.yaml does. buildah can run nothing on one.
start_read_only() {
  local configuration=$1
  unshare --mount bash -euc '
    mount --make-rprivate /
    mount --bind "$1" "$1" && mount -o remount,ro,bind "$1"
    mount --rbind /dev "$1/dev" && mount --bind "$2" "$1/var/lib/tokenwire"
    mount --bind "$3" "$1/etc/tokenwire/tokenwire.yaml"
    if touch "$1/etc/written" 2>/dev/null; then echo "the root can be written" >&2; exit 1; fi
    exec env -i PATH=/usr/local/bin:/usr/bin:/usr/sbin TOKENWIRE_SERVER__HOST=0.0.0.0 TOKENWIRE_SERVER__PORT="$5" \
      TOKENWIRE_CONFIG=/etc/tokenwire/tokenwire.yaml TOKENWIRE_STORE__KIND=disk TOKENWIRE_STORE__PATH=/var/lib/tokenwire \
      chroot --userspec="$4" "$1" tokenwire
  ' - "$root" "$here/volume" "$configuration" "$owner" "$port" >"$here/gateway.log" 2>&1 &
  outer=$!
  running+=("$outer")
  eventually curl -fsS "localhost:$port/readyz"
}

# Ends it as `docker stop` does.
stop() {
  kill "$(inner "$outer")"
  wait "$outer" || fail "the gateway ended with status $?"
}

clean_up
mkdir -p "$here/context/config" "$here/volume"

echo "base image"
base=$(buildah from scratch)
debootstrap --variant=minbase --include=ca-certificates "$suite" "$(buildah mount "$base")" "$MIRROR" >"$here/debootstrap.log" 2>&1 ||
  fail "debootstrap failed"
rm "$here/debootstrap.log"
rm -rf "$(buildah mount "$base")"/var/cache/apt/archives/*.deb
buildah commit --quiet --rm "$base" "docker.io/library/debian:$suite-slim" >/dev/null

echo "image"
cp "$checkout/config/tokenwire.yaml" "$here/context/config/"
cp "$gateway" "$here/context/tokenwire"
if command -v strip >/dev/null; then strip -g "$here/context/tokenwire"; fi
buildah bud --isolation chroot --pull-never --format docker --build-arg BINARY=built --file "$checkout/deploy/Dockerfile" \
  --tag "$image" "$here/context" >"$here/build.log" 2>&1 || fail "the image does not build"
rm "$here/build.log"

container=$(buildah from --pull-never "$image")
root=$(buildah mount "$container")
owner=$(awk -F: '$1 == "tokenwire" { print $3 ":" $4 }' "$root/etc/passwd")
chown "$owner" "$here/volume"
chmod 700 "$here/volume"
port=$(free_port) upstream=$(free_port)
(cd "$here" && exec "$simulator" --host 127.0.0.1 --port "$upstream") >"$here/simulator.log" 2>&1 &
running+=($!)
eventually curl -fsS "localhost:$upstream/stats"

echo "the README's curl, with the key that is printed at the start"
start -e TOKENWIRE_DEFAULT_MODEL=simulator -e OPENAI_API_KEY=sk-none -e OPENAI_BASE_URL="http://127.0.0.1:$upstream/v1"
key=$(sed -n 's/.*requests need this key: //p' "$here/gateway.log")
[ -n "$key" ] || fail "no key was printed"
without=$(curl -s -o /dev/null -w '%{http_code}' "localhost:$port/v1/streams" -d '{"input":"hello"}')
[ "$without" = 401 ] || fail "status $without without a key"
curl -fsSN "localhost:$port/v1/streams" -H "Authorization: Bearer $key" -d '{"input":"hello"}' | grep -q response.completed ||
  fail "no answer with the printed key"
user=$(awk '$1 == "Uid:" { print $2 }' "/proc/$(inner "$outer")/status")
[ "$user" = "${owner%%:*}" ] || fail "the gateway runs as user $user"
mapfile -t check < <(buildah inspect --type image "$image" | python3 -c '
import json, sys
print("\n".join(json.load(sys.stdin)["Docker"]["config"]["Healthcheck"]["Test"][1:]))')
health() { TOKENWIRE_SERVER__PORT=$port chroot --userspec="$owner" "$root" "${check[@]}"; }
health || fail "the health check fails"
stop
if health 2>/dev/null; then fail "the health check finds a gateway that has ended"; fi

echo "config.yaml with a key, and a volume that outlives the container"
cat >"$here/config.yaml" <<YAML
auth: {keys: [{owner: alice, key: sk-tw-of-the-container-test}]}
upstreams: [{name: simulator, base_url: 'http://127.0.0.1:$upstream/v1'}]
YAML
chmod 644 "$here/config.yaml"
mounted=(-v "$here/config.yaml:/etc/tokenwire/tokenwire.yaml:ro")
authorization="Authorization: Bearer sk-tw-of-the-container-test"
start "${mounted[@]}"
[ -z "$(sed -n '/requests need this key/p' "$here/gateway.log")" ] || fail "a key was made beside the configured one"
id=$(curl -fsS "localhost:$port/v1/responses" -H "$authorization" -H 'Content-Type: application/json' \
  -d '{"model":"simulator","input":"hello"}' | python3 -c 'import json, sys; print(json.load(sys.stdin)["id"])')
before=$(curl -fsS "localhost:$port/v1/responses/$id" -H "$authorization")
stop
start "${mounted[@]}"
stop
start_read_only "$here/config.yaml"
after=$(curl -fsS "localhost:$port/v1/responses/$id" -H "$authorization") || fail "the response is lost"
[ "$before" = "$after" ] || fail "the response has changed"
stop
echo "passed"
