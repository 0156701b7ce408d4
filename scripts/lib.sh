# shellcheck shell=bash
# What the scripts share. Source it; it changes to the repository's root.

cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 1

# The oldest kernel that the agent takes; keep it equal to agent/src/xdp.
readonly OLDEST_KERNEL=5.15

say() { printf '%s\n' "$*"; }

# A sentence on standard error, and the end.
die() {
    printf '%s: %s\n' "$(basename "$0")" "$*" >&2
    exit 1
}

# Whether there is a program of this name.
have() { command -v "$1" >/dev/null 2>&1; }

is_root() { [ "$(id -u)" -eq 0 ]; }

# Seconds since the machine started, to measure by: nobody sets this clock.
seconds() { cut -d. -f1 /proc/uptime; }

# Ends with one sentence unless this is a Linux with a kernel that will do.
need_linux() {
    [ "$(uname -s)" = Linux ] ||
        die "this needs Linux $OLDEST_KERNEL or newer, and here is $(uname -s): try it in a virtual machine"
    local running oldest
    running=$(uname -r)
    oldest=$(printf '%s\n%s\n' "$OLDEST_KERNEL" "${running%%-*}" | sort -V | head -n 1)
    [ "$oldest" = "$OLDEST_KERNEL" ] ||
        die "this needs Linux $OLDEST_KERNEL or newer, and here is $running: start a newer kernel"
}

# build_programs PROFILE PACKAGE...: sets `bin` to where their programs are. With
# BLIXT_BUILT in the environment they are there already: scripts/test has built all
# at once. Cargo builds a package alone with other features of its dependencies than
# with others, and so would build most of them again.
build_programs() {
    local profile=$1
    shift
    bin=${BLIXT_BUILT:-}
    [ -z "$bin" ] || return 0
    cargo build --profile "$profile" "${@/#/--package=}"
    # shellcheck disable=SC2034 # those who source this use it
    bin=${CARGO_TARGET_DIR:-target}/${profile/#dev/debug}
}

# rustup puts cargo where a root shell may not look.
find_cargo() {
    have cargo && return
    local home
    for home in "$HOME" "$(getent passwd "${SUDO_USER:-}" 2>/dev/null | cut -d: -f6)"; do
        if [ -x "$home/.cargo/bin/cargo" ]; then
            PATH="$home/.cargo/bin:$PATH"
            return
        fi
    done
    die "cargo is not here: scripts/setup installs it or says how"
}
