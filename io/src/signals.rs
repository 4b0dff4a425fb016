//! What the operating system would end the process for without a word.

use std::cell::Cell;
use std::marker::PhantomData;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Where LMDB's file is mapped.
static MAP_START: AtomicUsize = AtomicUsize::new(0);
static MAP_END: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    /// How many [`WithinLmdb`] there are on this thread.
    static WITHIN: Cell<usize> = const { Cell::new(0) };
}

/// As long as there is one, this thread is within LMDB: if that finds that its own pages cannot be, it ends the process by a
/// signal, and that is damage.
pub(crate) struct WithinLmdb(PhantomData<*const ()>);

impl WithinLmdb {
    pub(crate) fn enter() -> Self {
        WITHIN.with(|within| within.set(within.get() + 1));
        Self(PhantomData)
    }
}

impl Drop for WithinLmdb {
    fn drop(&mut self) {
        WITHIN.with(|within| within.set(within.get() - 1));
    }
}

/// How far beyond the map damaged sizes of values reach: they have four bytes.
const VALUE_BYTES_MAX: usize = u32::MAX as usize;

/// How far from null the fields of a structure are that is not there.
const NULL_BYTES: usize = 65_536;

/// From now on a file that may not grow is an error for who writes it, and a part of the stored data that cannot be read
/// through LMDB's map, or is none as LMDB finds, ends the process with one line.
pub fn install() {
    #[cfg(unix)]
    unix::install();
}

/// Tells where LMDB's file is mapped: an access there that fails is damage.
pub(crate) fn note_map(start: usize, length: usize) {
    MAP_START.store(start, Ordering::Relaxed);
    MAP_END.store(start.saturating_add(length), Ordering::Relaxed);
}

#[cfg(unix)]
mod unix {
    use std::mem::MaybeUninit;
    use std::ptr::null_mut;
    use std::sync::OnceLock;
    use std::sync::atomic::Ordering;

    use super::{MAP_END, MAP_START, NULL_BYTES, VALUE_BYTES_MAX, WITHIN};

    const LINE: &[u8] =
        b"error: the data directory is damaged, or its files were cut off while they were open: a part of \
        it cannot be read; nothing more is written\n";

    /// What handles faults elsewhere, such as the overflow of a stack.
    static BEFORE: OnceLock<libc::sigaction> = OnceLock::new();

    pub fn install() {
        // SAFETY: the calls get structures that are whole, and the handler does only what a handler may do.
        unsafe {
            libc::signal(libc::SIGXFSZ, libc::SIG_IGN);
            let mut before = MaybeUninit::<libc::sigaction>::zeroed().assume_init();
            libc::sigaction(libc::SIGSEGV, null_mut(), &mut before);
            if BEFORE.set(before).is_err() {
                return;
            }
            let mut action = MaybeUninit::<libc::sigaction>::zeroed().assume_init();
            action.sa_sigaction = handle as *const () as usize;
            action.sa_flags = libc::SA_ONSTACK | libc::SA_SIGINFO;
            libc::sigaction(libc::SIGBUS, &action, null_mut());
            libc::sigaction(libc::SIGSEGV, &action, null_mut());
            action.sa_sigaction = handle_abort as *const () as usize;
            libc::sigaction(libc::SIGABRT, &action, null_mut());
        }
    }

    /// Whether this thread is within LMDB.
    fn is_within_lmdb() -> bool {
        // A thread that ends has left it.
        WITHIN.try_with(|within| within.get() > 0).unwrap_or(false)
    }

    extern "C" fn handle_abort(signal: libc::c_int, _: *mut libc::siginfo_t, _: *mut libc::c_void) {
        // SAFETY: writing and ending are allowed in a handler, and the line is a constant; else the default is restored,
        // and who aborts does so when this returns.
        unsafe {
            if is_within_lmdb() {
                libc::write(libc::STDERR_FILENO, LINE.as_ptr().cast(), LINE.len());
                libc::_exit(1);
            }
            libc::signal(signal, libc::SIG_DFL);
        }
    }

    extern "C" fn handle(signal: libc::c_int, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
        // SAFETY: the operating system gives a whole structure to handlers that ask for it.
        let address = unsafe { (*info).si_addr() } as usize;
        let end = MAP_END.load(Ordering::Relaxed).saturating_add(VALUE_BYTES_MAX);
        let is_map = (MAP_START.load(Ordering::Relaxed)..end).contains(&address);
        // LMDB follows pointers to pages that it has not found.
        let is_null = end > VALUE_BYTES_MAX && address < NULL_BYTES;
        // And what it takes for the number of a page may be any number.
        if signal == libc::SIGBUS || is_map || is_null || is_within_lmdb() {
            // SAFETY: writing and ending are allowed in a handler, and the line is a constant.
            unsafe {
                libc::write(libc::STDERR_FILENO, LINE.as_ptr().cast(), LINE.len());
                libc::_exit(1);
            }
        }
        let before = BEFORE.get();
        // SAFETY: this is what the handler before would have been called with; without one, the default is restored, and
        // the access is tried again and ends the process.
        unsafe {
            match before {
                Some(before)
                    if before.sa_flags & libc::SA_SIGINFO != 0
                        && before.sa_sigaction != libc::SIG_DFL
                        && before.sa_sigaction != libc::SIG_IGN =>
                {
                    let handler: extern "C" fn(libc::c_int, *mut libc::siginfo_t, *mut libc::c_void) =
                        std::mem::transmute(before.sa_sigaction);
                    handler(signal, info, context);
                }
                _ => {
                    libc::signal(signal, libc::SIG_DFL);
                }
            }
        }
    }
}
