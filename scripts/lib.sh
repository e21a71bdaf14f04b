# shellcheck shell=bash
# What the scripts share: where the build goes, what a machine needs, and how to clean up. Sourced, not run.

# Building RocksDB takes many minutes, so its result outlives the clone.
export CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-${XDG_CACHE_HOME:-$HOME/.cache}/mqfs/target}"

# Nobody edits what is built there, so what would make the next build of a changed file quick would make this one slower.
export CARGO_INCREMENTAL="${CARGO_INCREMENTAL-0}"

# Each crate is optimised without the last round over all its parts together: that is a quarter of the time that compiling takes, and
# what is built serves a message up to a fifth dearer. Users do not get it: scripts/bench, which measures, sets this to false.
export CARGO_PROFILE_RELEASE_LTO="${CARGO_PROFILE_RELEASE_LTO-off}"

# Cargo goes by the times of files, not by where they are: after another clone was built there, older files of this one would
# count as built.
if [ "$(cat "$CARGO_TARGET_DIR/mqfs-clone" 2>/dev/null)" != "$PWD" ]; then
    mkdir -p "$CARGO_TARGET_DIR"
    find src tests benches fuzz -name '*.rs' -exec touch {} + 2>/dev/null || true
    printf '%s\n' "$PWD" >"$CARGO_TARGET_DIR/mqfs-clone"
fi

# Administrators' tools and a fresh rustup are often not on the PATH of a plain shell.
PATH="$PATH:$HOME/.cargo/bin:/usr/local/sbin:/usr/sbin:/sbin"

say() { printf '\n==> %s\n' "$*"; }

die() {
    printf '%s: %s\n' "${0##*/}" "$*" >&2
    exit 1
}

# as_root COMMAND...: runs it as root, with sudo when we are not.
as_root() {
    if [ "$(id -u)" -eq 0 ]; then
        "$@"
    else
        command -v sudo >/dev/null || die "not root, and no sudo: run as root: $*"
        sudo "$@"
    fi
}

# need_packages NAME...: installs the Debian packages among NAME that are missing, and says which. Of a package that is a
# service, only the programs are wanted: nothing is started, now or at the next boot.
need_packages() {
    command -v dpkg-query >/dev/null || {
        say "not a Debian system: make sure that you have what Debian calls $*"
        return
    }
    local name missing=()
    for name in "$@"; do
        dpkg-query -W -f='${db:Status-Status}\n' "$name" 2>/dev/null | grep -qx installed || missing+=("$name")
    done
    [ ${#missing[@]} -gt 0 ] || return 0
    say "installing the missing Debian packages: ${missing[*]}"
    as_root apt-get update -q
    local policy=/usr/sbin/policy-rc.d ours='' code=0
    if [ ! -e $policy ]; then
        printf '#!/bin/sh\nexit 101\n' | as_root tee $policy >/dev/null && as_root chmod 755 $policy
        ours=yes
    fi
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends "${missing[@]}" || code=$?
    [ -z "$ours" ] || as_root rm -f $policy
    for name in "${missing[@]}"; do
        local services
        case $name in
            prometheus* | rabbitmq-server) services=("$name") ;;
            openssh-server) services=(ssh) ;;
            samba) services=(smbd nmbd samba-ad-dc) ;;
            *) continue ;;
        esac
        as_root deb-systemd-helper disable "${services[@]/%/.service}" >/dev/null 2>&1 || true
    done
    return $code
}

# need_rust: refuses a missing or an old Rust.
need_rust() {
    local wanted have
    command -v cargo >/dev/null || die "needs Rust: see https://rustup.rs"
    wanted=$(sed -n 's/^rust-version = "\(.*\)"$/\1/p' Cargo.toml)
    have=$(rustc --version | cut -d' ' -f2)
    [ "$(printf '%s\n' "$wanted" "$have" | sort -V | head -n 1)" = "$wanted" ] ||
        die "needs Rust $wanted or newer, and this is $have: see https://rustup.rs"
}

# need_components NAME...: adds missing components of Rust where rustup can.
need_components() {
    local component
    for component in "$@"; do
        cargo "${component#rust}" --version >/dev/null 2>&1 && continue
        command -v rustup >/dev/null || die "needs Rust's component $component"
        say "installing Rust's component $component"
        rustup component add "$component"
    done
}

need_fuse() {
    [ -e /dev/fuse ] || as_root modprobe fuse || true
    [ -e /dev/fuse ] || die "no /dev/fuse: this kernel or container offers no FUSE (containers: --device /dev/fuse --cap-add SYS_ADMIN)"
}

# mounts_below DIR: the mount points below DIR, the deepest first.
mounts_below() {
    local point
    awk -v dir="$1/" 'index($2, dir) == 1 { print $2 }' /proc/mounts | LC_ALL=C sort -r | while read -r point; do
        printf '%b\n' "$point" # The kernel writes a space as \040.
    done
}

# processes_of DIR: the processes that have DIR as their TMPDIR or name it on their command line.
processes_of() {
    local proc
    for proc in /proc/[0-9]*; do
        if grep -qzxF "TMPDIR=$1" "$proc/environ" 2>/dev/null || grep -qzF "$1/" "$proc/cmdline" 2>/dev/null; then
            printf '%s %s\n' "${proc#/proc/}" "$(tr '\0' ' ' <"$proc/cmdline" 2>/dev/null)"
        fi
    done
}

# sweep DIR: ends the processes, mounts and files that something left in DIR, which one of these scripts made.
sweep() {
    local dir=$1 pid point
    processes_of "$dir" | while read -r pid _; do
        kill -9 "$pid" 2>/dev/null || true
    done
    mounts_below "$dir" | while IFS= read -r point; do
        fusermount3 -u -z "$point" 2>/dev/null || as_root umount -l "$point" || true
    done
    rm -rf --one-file-system "$dir"
}

# private_directory PREFIX: makes /tmp/PREFIX.PID.XXXXXX and prints it, after sweeping up those of runs that died.
private_directory() {
    local base=${TMPDIR:-/tmp} old pid dir
    for old in "$base/$1".*.*; do
        [ -O "$old" ] || continue
        pid=${old#"$base/$1".}
        pid=${pid%%.*}
        grep -qzF "scripts/" "/proc/$pid/cmdline" 2>/dev/null && continue
        say "cleaning up after an earlier run that died: $old" >&2
        sweep "$old"
    done
    dir=$(mktemp -d "$base/$1.$$.XXXXXX")
    chmod 755 "$dir" # Tests act as other users in it.
    printf '%s\n' "$dir"
}
