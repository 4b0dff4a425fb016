//! Open files and sockets: how many there may be, and what the kernel holds for one.

use std::io;
use std::os::fd::AsRawFd;

/// How many files the host needs besides connections: the log, the checkpoint, scratch space, what threads wake each other
/// with.
const OTHERS: u64 = 64;

/// More than this is not asked for, whatever is allowed: where the limit is a billion, tables grow with it.
const LIMIT_MAX: u64 = 1 << 20;

/// Allow as many open files as the machine lets us. How many that are.
pub fn raise_limit() -> u64 {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the struct is ours, and the call only writes to it.
    if unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) } != 0 {
        return LIMIT_MAX;
    }
    let wanted = limit.rlim_max.min(LIMIT_MAX);
    if wanted > limit.rlim_cur {
        let raised = libc::rlimit { rlim_cur: wanted, ..limit };
        // SAFETY: the struct is ours, and the call only reads it.
        if unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const raised) } == 0 {
            return wanted;
        }
    }
    limit.rlim_cur
}

/// How many of `wanted` connections fit into so many open files.
pub fn connections_within(limit: u64, wanted: usize) -> usize {
    // With very few, some for connections, and the rest may fail.
    let fitting = limit.saturating_sub(OTHERS).max(limit / 4).max(1);
    wanted.min(usize::try_from(fitting).unwrap_or(usize::MAX))
}

/// Whether something failed for want of open files or of memory in the kernel, and not for what was asked.
pub fn is_lack(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM))
}

/// Let at most so many bytes wait in the kernel to be sent on a TCP socket, as far as it knows how to.
pub fn limit_unsent(socket: &impl AsRawFd, bytes_max: u32) {
    // SAFETY: the descriptor is open as long as the socket is borrowed, and the value is an int of the given size.
    let _ = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_NOTSENT_LOWAT,
            (&raw const bytes_max).cast(),
            size_of::<u32>() as libc::socklen_t,
        )
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_fit_into_the_limit() {
        assert_eq!(connections_within(LIMIT_MAX, 4096), 4096);
        assert_eq!(connections_within(256, 4096), 192);
        assert_eq!(connections_within(80, 4096), 20);
        assert_eq!(connections_within(1, 4096), 1);
        assert_eq!(connections_within(256, 10), 10);
    }

    #[test]
    fn the_limit_is_as_high_as_is_allowed() {
        let raised = raise_limit();
        assert_eq!(raise_limit(), raised);
        assert!(raised >= 256);
    }
}
