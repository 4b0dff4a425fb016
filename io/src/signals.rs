//! What the operating system would end the process for without a word.

/// From now on a file that may not grow is an error for who writes it, and a part of the stored data that cannot be read
/// through LMDB's map ends the process with one line.
pub fn install() {
    #[cfg(unix)]
    unix::install();
}

#[cfg(unix)]
mod unix {
    use std::mem::MaybeUninit;
    use std::ptr::null_mut;

    const LINE: &[u8] =
        b"error: the data directory cannot be read any more: the disk fails, or its files were cut off or \
        damaged while they were open (SIGBUS); nothing more is written\n";

    pub fn install() {
        // SAFETY: both calls get structures that are whole, the handler does only what a handler may do, and no thread
        // but the first is running.
        unsafe {
            libc::signal(libc::SIGXFSZ, libc::SIG_IGN);
            let mut action = MaybeUninit::<libc::sigaction>::zeroed().assume_init();
            action.sa_sigaction = end as extern "C" fn(libc::c_int) as usize;
            action.sa_flags = libc::SA_ONSTACK;
            libc::sigaction(libc::SIGBUS, &action, null_mut());
        }
    }

    extern "C" fn end(_signal: libc::c_int) {
        // SAFETY: writing and ending are allowed in a handler, and the line is a constant.
        unsafe {
            libc::write(libc::STDERR_FILENO, LINE.as_ptr().cast(), LINE.len());
            libc::_exit(1);
        }
    }
}
