# shellcheck shell=bash
# Writes images with neither a registry, a daemon nor a base image. Source it.
#
# What comes out is a tar archive that is both an OCI image layout and a docker
# archive, so `ctr images import`, `kind load image-archive`, `podman load` and
# `docker load` read it. The same files give the same bytes.

# write_image OUT ROOT CONFIG NAME...: an image of the tree ROOT, with CONFIG,
# the "config" of an OCI image configuration as JSON, under each NAME.
write_image() {
    local out=$1 root=$2 config=$3 name work layer image manifest
    shift 3
    work=$(mktemp -d "$out.XXXXXX")
    mkdir -p "$work/blobs/sha256"

    tar_of "$work/layer" "$root" .
    layer=$(take_blob "$work" layer)
    jq -cnS --arg arch "$(image_architecture)" --argjson config "$config" --arg layer "$layer" '{
        created: "1970-01-01T00:00:00Z", architecture: $arch, os: "linux", config: $config,
        rootfs: {type: "layers", diff_ids: ["sha256:" + $layer]}}' >"$work/config"
    image=$(take_blob "$work" config)
    jq -cnS --argjson config "$(descriptor "$work" "$image" image.config.v1+json)" \
        --argjson layer "$(descriptor "$work" "$layer" image.layer.v1.tar)" '{
        schemaVersion: 2, mediaType: "application/vnd.oci.image.manifest.v1+json",
        config: $config, layers: [$layer]}' >"$work/manifest"
    manifest=$(take_blob "$work" manifest)

    printf '{"imageLayoutVersion":"1.0.0"}' >"$work/oci-layout"
    for name in "$@"; do
        descriptor "$work" "$manifest" image.manifest.v1+json |
            jq -cS --arg name "$name" '. + {annotations: {"io.containerd.image.name": $name,
                "org.opencontainers.image.ref.name": ($name | split(":") | last)}}'
    done | jq -csS '{schemaVersion: 2, mediaType: "application/vnd.oci.image.index.v1+json",
        manifests: .}' >"$work/index.json"
    # What docker read before it knew OCI layouts.
    jq -cnS --arg config "blobs/sha256/$image" --arg layer "blobs/sha256/$layer" \
        '[{Config: $config, RepoTags: $ARGS.positional, Layers: [$layer]}]' --args "$@" \
        >"$work/manifest.json"

    tar_of "$work.tar" "$work" blobs index.json manifest.json oci-layout
    mv "$work.tar" "$out"
    rm -r "$work"
}

# add_program ROOT PROGRAM: the program at ROOT's top, and the libraries and
# the loader that it asks for at the paths where it looks.
add_program() {
    local root=$1 program=$2 library
    install -m 0755 "$program" "$root/$(basename "$program")"
    # The loader's is the only line without an arrow but for the kernel's, which
    # is no file. A static program has no lines at all.
    for library in $(ldd "$program" 2>/dev/null | grep -oE '/[^ ]+' | sort -u || true); do
        mkdir -p "$root$(dirname "$library")"
        install -m 0755 "$(realpath "$library")" "$root$library"
    done
}

# tar_of OUT DIRECTORY NAME...: the same bytes for the same files, whoever owns
# them and whenever they were written.
tar_of() {
    local out=$1 directory=$2
    shift 2
    tar --create --file "$out" --directory "$directory" --format=posix --sort=name \
        --mode=u=rwX,go=rX --mtime=@0 --owner=0 --group=0 --numeric-owner \
        --pax-option=exthdr.name=%d/PaxHeaders/%f,delete=atime,delete=ctime \
        "$@"
}

# take_blob WORK NAME: files it under its digest, and says which that is.
take_blob() {
    local digest
    digest=$(sha256sum "$1/$2" | cut -d' ' -f1)
    mv "$1/$2" "$1/blobs/sha256/$digest"
    printf '%s' "$digest"
}

descriptor() {
    jq -cnS --arg kind "application/vnd.oci.$3" --arg digest "sha256:$2" \
        --argjson size "$(stat -c %s "$1/blobs/sha256/$2")" \
        '{mediaType: $kind, digest: $digest, size: $size}'
}

# As OCI calls it, which is as Go does.
image_architecture() {
    case "$(uname -m)" in
    x86_64) echo amd64 ;;
    aarch64) echo arm64 ;;
    *) uname -m ;;
    esac
}
