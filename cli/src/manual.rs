//! What a package of blixtctl brings besides: completion for shells, and pages
//! for man, both made of the command line's own help.

use std::io;
use std::path::Path;

use clap::CommandFactory;
use clap_complete::Shell;

use crate::connect::Failure;
use crate::flags::Flags;

/// A script that completes the command line in this shell.
pub(crate) fn completion(shell: Shell) -> String {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Flags::command(), NAME, &mut script);
    String::from_utf8_lossy(&script).into_owned()
}

/// Writes a page for the program and one for each command, such as
/// `blixtctl-flows.1`. Gives their names.
pub(crate) fn pages(directory: &Path) -> Result<String, Failure> {
    let refused = |error: io::Error| Failure::Pages { path: directory.to_owned(), error };
    std::fs::create_dir_all(directory).map_err(refused)?;
    clap_mangen::generate_to(Flags::command(), directory).map_err(refused)?;
    let mut pages = Vec::new();
    for entry in directory.read_dir().map_err(refused)? {
        let name = entry.map_err(refused)?.file_name();
        pages.extend(name.to_str().filter(|name| name.starts_with(NAME)).map(str::to_owned));
    }
    pages.sort();
    Ok(pages.iter().map(|page| format!("{}\n", directory.join(page).display())).collect())
}

const NAME: &str = "blixtctl";
