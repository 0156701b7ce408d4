//! Reads manifests: directories as an agent does, files whatever they are
//! called, and standard input.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use blixt_gateway::{MAX_FILE_BYTES, is_manifest};

use crate::connect::Failure;

/// What is in each file, or why it can't be read.
type Files = BTreeMap<String, Result<Vec<u8>, String>>;

/// What standard input is called.
const STDIN: &str = "-";

/// Reads all of them. What is named must be there; what lies in a directory
/// is told file by file, as an agent tells it.
pub(super) fn files(paths: &[PathBuf]) -> Result<Files, Failure> {
    let mut files = Files::new();
    for path in paths {
        let refused = |error| Failure::Manifests { path: path.clone(), error };
        if path.as_os_str() == STDIN {
            files.insert("stdin".to_owned(), bounded(io::stdin().lock()).map_err(told));
        } else if path.is_dir() {
            let before = files.len();
            directory(path, &mut files).map_err(refused)?;
            if files.len() == before {
                return Err(Failure::NoManifests { path: path.clone() });
            }
        } else {
            let bytes = File::open(path).and_then(bounded).map_err(refused)?;
            files.insert(path.display().to_string(), Ok(bytes));
        }
    }
    Ok(files)
}

fn directory(path: &Path, files: &mut Files) -> io::Result<()> {
    for entry in path.read_dir()? {
        let name = entry?.file_name();
        if name.to_str().is_none_or(|name| !is_manifest(name)) {
            continue;
        }
        let file = path.join(name);
        let bytes = match file.metadata() {
            // Opening a pipe would wait for its other end.
            Ok(found) if !found.is_file() => Err("it is not a regular file".to_owned()),
            _ => File::open(&file).and_then(bounded).map_err(told),
        };
        files.insert(file.display().to_string(), bytes);
    }
    Ok(())
}

fn bounded(source: impl Read) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    // One byte more than is allowed tells what is too large.
    source.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_FILE_BYTES {
        let most = MAX_FILE_BYTES >> 20;
        return Err(io::Error::other(format!("it is larger than {most} MiB: split it up")));
    }
    Ok(bytes)
}

fn told(error: io::Error) -> String {
    error.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn a_directory_gives_its_manifests_and_a_file_itself() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        for name in ["a.yaml", "b.json", ".c.yaml", "d.txt"] {
            fs::write(at(name), name).unwrap();
        }
        fs::create_dir(at("e.yaml")).unwrap();
        let files = files(&[directory.path().to_owned(), at("d.txt")]).unwrap();
        let names: Vec<_> = files.keys().map(|name| name.rsplit('/').next().unwrap()).collect();
        assert_eq!(names, ["a.yaml", "b.json", "d.txt", "e.yaml"]);
        assert_eq!(files.values().filter(|bytes| bytes.is_err()).count(), 1, "{files:?}");
    }

    #[test]
    fn what_is_named_has_to_be_there() {
        let directory = tempfile::tempdir().unwrap();
        let missing = directory.path().join("missing.yaml");
        let why = files(&[missing]).unwrap_err().to_string();
        assert!(why.contains("missing.yaml"), "{why}");
        let why = files(&[directory.path().to_owned()]).unwrap_err().to_string();
        assert!(why.contains("no .yaml, .yml or .json"), "{why}");
    }
}
