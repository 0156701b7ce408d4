# shellcheck shell=bash
# Where the lab's parts are, and what the scripts about it share. Source it; it
# changes to the repository's root.

# shellcheck source=scripts/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/../../scripts/lib.sh"

# Go looks for nothing relative.
LAB_BIN=$(realpath -m "${BLIXT_LAB_BIN:-${CARGO_TARGET_DIR:-target}/lab/bin}")
readonly LAB_BIN LAB_DIR=${LAB_BIN%/*}
# shellcheck disable=SC2034 # those who source this use them
readonly LAB_IMAGES=$LAB_DIR/images LAB_CRDS=$LAB_DIR/crds
