//! Reads a directory of manifests, within bounds.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use blixt_gateway::{MAX_FILE_BYTES, is_manifest};

/// All manifests of a directory: for each file its bytes, or why they can't
/// be read.
pub type Contents = BTreeMap<String, Result<Vec<u8>, String>>;

/// Reads all manifests. An error concerns the directory as a whole.
pub(super) fn read(directory: &Path) -> io::Result<Contents> {
    let mut contents = Contents::new();
    for entry in directory.read_dir()? {
        let Ok(name) = entry?.file_name().into_string() else { continue };
        if !is_manifest(&name) {
            continue;
        }
        match read_file(&directory.join(&name)) {
            // Gone again between the two looks: as if it had never been there.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => {
                contents.insert(name, Err(error.to_string()));
            }
            Ok(bytes) => {
                contents.insert(name, Ok(bytes));
            }
        }
    }
    Ok(contents)
}

fn read_file(path: &Path) -> io::Result<Vec<u8>> {
    // Opening a pipe would wait for its other end, so look first.
    if !path.metadata()?.is_file() {
        return Err(io::Error::other("it is not a regular file"));
    }
    let mut bytes = Vec::new();
    // One byte more than is allowed tells a file that is too large, even one
    // that grows while it is read.
    File::open(path)?.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_FILE_BYTES {
        let most = MAX_FILE_BYTES >> 20;
        return Err(io::Error::other(format!("it is larger than {most} MiB: split it up")));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;

    #[test]
    fn only_manifests_are_read() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path();
        for name in ["a.yaml", "b.yml", "c.json", "d.txt", ".e.yaml", "f.yaml~", "yaml"] {
            fs::write(path.join(name), name).unwrap();
        }
        fs::create_dir(path.join("g.yaml.d")).unwrap();
        let contents = read(path).unwrap();
        assert_eq!(contents.keys().collect::<Vec<_>>(), ["a.yaml", "b.yml", "c.json"]);
        assert_eq!(contents["a.yaml"], Ok(b"a.yaml".to_vec()));
    }

    #[test]
    fn links_are_followed_as_config_maps_need_it() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path();
        fs::create_dir(path.join("..1")).unwrap();
        fs::write(path.join("..1/a.yaml"), "one").unwrap();
        symlink("..1", path.join("..data")).unwrap();
        symlink("..data/a.yaml", path.join("a.yaml")).unwrap();
        symlink("nowhere", path.join("b.yaml")).unwrap();
        let contents = read(path).unwrap();
        assert_eq!(
            contents.into_iter().collect::<Vec<_>>(),
            [("a.yaml".to_owned(), Ok(b"one".to_vec()))]
        );
    }

    #[test]
    fn what_is_no_file_or_too_large_says_so() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path();
        fs::create_dir(path.join("a.yaml")).unwrap();
        let large = File::create(path.join("b.yaml")).unwrap();
        large.set_len(MAX_FILE_BYTES + 1).unwrap();
        let why: Vec<_> = read(path).unwrap().into_values().map(Result::unwrap_err).collect();
        assert_eq!(why, ["it is not a regular file", "it is larger than 16 MiB: split it up"]);
        assert!(read(&path.join("missing")).is_err());
    }
}
