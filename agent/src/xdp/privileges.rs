//! What the process and the kernel must be able to do, asked before the first
//! system call that would fail with a bare "operation not permitted".

use std::fs;

use super::XdpError;

/// The oldest kernel that has all we stand on: BPF links for XDP (5.9), UMEMs
/// shared between interfaces (5.10), BPF memory accounted to the cgroup
/// instead of RLIMIT_MEMLOCK (5.11). 5.15 is the first longterm release after.
const OLDEST_KERNEL: (u32, u32) = (5, 15);

/// Bits in linux/capability.h.
const CAP_NET_ADMIN: u32 = 12;
const CAP_SYS_ADMIN: u32 = 21;
const CAP_PERFMON: u32 = 38;
const CAP_BPF: u32 = 39;

/// Checks both.
pub(super) fn check() -> Result<(), XdpError> {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    check_kernel(release.trim())?;
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    check_capabilities(&status)
}

/// A release that can't be read is not refused: the kernel will say.
fn check_kernel(release: &str) -> Result<(), XdpError> {
    match version(release) {
        Some(running) if running < OLDEST_KERNEL => {
            let (major, minor) = OLDEST_KERNEL;
            Err(XdpError::KernelTooOld {
                running: release.into(),
                oldest: format!("{major}.{minor}"),
            })
        }
        _ => Ok(()),
    }
}

fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

fn check_capabilities(status: &str) -> Result<(), XdpError> {
    let Some(effective) = effective(status) else {
        return Ok(());
    };
    let has = |bit: u32| effective >> bit & 1 == 1;
    let mut missing = Vec::new();
    if !has(CAP_NET_ADMIN) {
        missing.push("CAP_NET_ADMIN");
    }
    // CAP_SYS_ADMIN includes both (capabilities(7)). Without CAP_PERFMON the
    // verifier refuses what compilers do with values that are only partly
    // set: reading a stack slot nobody wrote (`allow_uninit_stack`,
    // kernel/bpf/verifier.c).
    for (bit, name) in [(CAP_BPF, "CAP_BPF"), (CAP_PERFMON, "CAP_PERFMON")] {
        if !has(bit) && !has(CAP_SYS_ADMIN) {
            missing.push(name);
        }
    }
    if missing.is_empty() { Ok(()) } else { Err(XdpError::Unprivileged { missing }) }
}

/// `CapEff`, proc_pid_status(5).
fn effective(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"))?;
    u64::from_str_radix(line.trim(), 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_kernels_are_refused_by_number() {
        for old in ["5.4.0-42-generic", "5.14.99", "4.19"] {
            let error = check_kernel(old).unwrap_err().to_string();
            assert!(error.contains(old) && error.contains("5.15"), "{error}");
        }
        for new in ["5.15.0-91-generic", "6.1.0-18-amd64", "6.18.44", "10.0", "unreadable"] {
            check_kernel(new).unwrap();
        }
    }

    #[test]
    fn missing_capabilities_are_named() {
        let none = "Name:\tx\nCapEff:\t0000000000000000\n";
        let error = check_capabilities(none).unwrap_err().to_string();
        assert!(error.contains("CAP_NET_ADMIN and CAP_BPF and CAP_PERFMON"), "{error}");

        let only_net_admin = format!("CapEff:\t{:016x}\n", 1_u64 << CAP_NET_ADMIN);
        let error = check_capabilities(&only_net_admin).unwrap_err().to_string();
        assert!(error.contains("lacks CAP_BPF and CAP_PERFMON"), "{error}");

        let all_but_perfmon = format!("CapEff:\t{:016x}\n", 1_u64 << CAP_NET_ADMIN | 1 << CAP_BPF);
        let error = check_capabilities(&all_but_perfmon).unwrap_err().to_string();
        assert!(error.contains("lacks CAP_PERFMON:"), "{error}");
    }

    #[test]
    fn sys_admin_stands_for_the_others() {
        let bits = 1_u64 << CAP_NET_ADMIN | 1 << CAP_SYS_ADMIN;
        check_capabilities(&format!("CapEff:\t{bits:016x}\n")).unwrap();
        let bits = 1_u64 << CAP_NET_ADMIN | 1 << CAP_BPF | 1 << CAP_PERFMON;
        check_capabilities(&format!("CapEff:\t{bits:016x}\n")).unwrap();
    }
}
