//! Images, as `scripts/oci.sh` writes them, and as the Containerfile does.

use std::fs;
use std::path::Path;

use blixt_e2e::cluster::root;
use blixt_testkit::netns::program;
use serde_json::{Value, json};

/// Writes an image of a tree with one program.
fn write(directory: &Path, mode: &str) -> Vec<u8> {
    let tree = directory.join("tree");
    program("bash")
        .args(["-euo", "pipefail", "-c"])
        .arg(
            "source \"$0/scripts/oci.sh\"; umask \"$3\"; mkdir \"$1\"; add_program \"$1\" /bin/true
             write_image \"$2\" \"$1\" '{\"Entrypoint\": [\"/true\"]}' example/a:v1 example/b:v2",
        )
        .arg(root())
        .args([&tree, &directory.join("image.tar")])
        .arg(mode)
        .ok();
    fs::read(directory.join("image.tar")).unwrap()
}

#[test]
fn the_same_files_give_the_same_image() {
    let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    assert!(write(one.path(), "022") == write(two.path(), "077"), "the bytes differ");
}

#[test]
fn an_image_is_an_oci_layout_and_a_docker_archive() {
    let directory = tempfile::tempdir().unwrap();
    write(directory.path(), "022");
    let out = directory.path().join("out");
    fs::create_dir(&out).unwrap();
    program("tar").arg("-xf").arg(directory.path().join("image.tar")).arg("-C").arg(&out).ok();
    let read = |path: &str| -> Value {
        serde_json::from_slice(&fs::read(out.join(path)).unwrap()).unwrap()
    };
    let blob = |descriptor: &Value| {
        let digest = descriptor["digest"].as_str().unwrap().strip_prefix("sha256:").unwrap();
        let path = format!("blobs/sha256/{digest}");
        assert_eq!(descriptor["size"], fs::metadata(out.join(&path)).unwrap().len());
        let sum = program("sha256sum").arg(out.join(&path)).ok();
        assert!(sum.starts_with(digest), "{sum}");
        path
    };

    assert_eq!(read("oci-layout"), json!({"imageLayoutVersion": "1.0.0"}));
    let index = read("index.json");
    let name = |n: usize| &index["manifests"][n]["annotations"]["io.containerd.image.name"];
    assert_eq!([name(0), name(1)], ["example/a:v1", "example/b:v2"]);
    let manifest = read(&blob(&index["manifests"][0]));
    let config = read(&blob(&manifest["config"]));
    assert_eq!(config["config"]["Entrypoint"], json!(["/true"]));
    let layer = blob(&manifest["layers"][0]);
    assert_eq!(config["rootfs"]["diff_ids"][0], manifest["layers"][0]["digest"]);
    assert_eq!(
        read("manifest.json"),
        json!([{"Config": blob(&manifest["config"]), "RepoTags": ["example/a:v1", "example/b:v2"], "Layers": [layer]}])
    );

    // The program, its loader and its libraries: so it runs where nothing else is.
    let tree = directory.path().join("layer");
    fs::create_dir(&tree).unwrap();
    program("tar").arg("-xf").arg(out.join(layer)).arg("-C").arg(&tree).ok();
    assert!(tree.join("true").is_file());
    let files = program("tar").arg("-tf").arg(out.join(blob(&manifest["layers"][0]))).ok();
    assert!(files.contains("libc.so"), "{files}");
    if nix::unistd::geteuid().is_root() {
        program("chroot").arg(&tree).arg("/true").ok();
    }
}

/// The lines of a file at the root of the repository that say something.
fn lines(path: &str) -> Vec<String> {
    let text = fs::read_to_string(root().join(path)).unwrap();
    let lines = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines.map(str::to_owned).collect()
}

#[test]
fn the_containerfile_makes_the_same_images_as_the_script() {
    let mut expected = Vec::new();
    for line in lines("scripts/images") {
        let words: Vec<_> = line.split(' ').collect();
        let ["image", name, user, program, ..] = words[..] else { continue };
        expected.push(format!("FROM scratch AS {name}"));
        expected.push(format!("COPY --from=build /images/{name}.tree/ /"));
        expected.push("ENV PATH=/".to_owned());
        // Who is not named is root.
        expected.extend((user != "0:0").then(|| format!("USER {user}")));
        expected.push(format!("ENTRYPOINT [\"/{program}\"]"));
    }
    let found = lines("Containerfile");
    let (build, images) = found.split_at(4);
    assert_eq!(images, expected);
    assert!(expected.len() > 4, "scripts/images makes no images any more: {expected:?}");

    // The oldest compiler that is tried, on the Debian that is.
    let rust = env!("CARGO_PKG_RUST_VERSION");
    assert_eq!(
        build,
        [
            &format!("FROM docker.io/library/rust:{rust}-bookworm AS build"),
            "WORKDIR /src",
            "COPY . .",
            "RUN scripts/setup && scripts/images --trees /images"
        ]
    );
    let comment = fs::read_to_string(root().join("Containerfile")).unwrap();
    for name in ["blixt-agent", "blixt-controller"] {
        let tag = format!("--tag ghcr.io/kubernetes-sigs/{name}:v{}", env!("CARGO_PKG_VERSION"));
        assert!(comment.contains(&tag), "{tag}");
    }
    assert_eq!(lines(".containerignore"), lines(".dockerignore"));
}
