//! Finds the compiled XDP program.
//!
//! In this order: the file that `BLIXT_XDP_OBJECT` names, `blixt-xdp.o` beside
//! the executable, the one that was compiled in. The first lets a developer
//! try another program, the second lets a package ship it apart.

use std::borrow::Cow;
use std::path::Path;
use std::{env, fs};

use super::XdpError;

const VARIABLE: &str = "BLIXT_XDP_OBJECT";
const FILE: &str = "blixt-xdp.o";

/// The program that `build.rs` made, if it could.
#[cfg(blixt_xdp_object)]
const BUILT_IN: Option<&[u8]> =
    Some(aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/blixt-xdp.o")));
#[cfg(not(blixt_xdp_object))]
const BUILT_IN: Option<&[u8]> = None;

/// A compiled program.
#[derive(Debug)]
pub(super) struct Object {
    pub(super) bytes: Cow<'static, [u8]>,
    /// Where it is from, for messages.
    pub(super) origin: String,
}

/// Finds it.
pub(super) fn find() -> Result<Object, XdpError> {
    if let Some(path) = env::var_os(VARIABLE) {
        return read(Path::new(&path));
    }
    if let Ok(executable) = env::current_exe() {
        let beside = executable.with_file_name(FILE);
        if beside.exists() {
            return read(&beside);
        }
    }
    match BUILT_IN {
        Some(bytes) => Ok(Object {
            bytes: Cow::Borrowed(bytes),
            origin: "the XDP program built into this executable".into(),
        }),
        None => {
            Err(XdpError::NoObject { why: option_env!("BLIXT_XDP_ABSENT").unwrap_or("unknown") })
        }
    }
}

fn read(path: &Path) -> Result<Object, XdpError> {
    let origin = path.display().to_string();
    match fs::read(path) {
        Ok(bytes) => Ok(Object { bytes: Cow::Owned(bytes), origin }),
        Err(source) => Err(XdpError::Unreadable { path: origin, source }),
    }
}
