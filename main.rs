//! The TinyChain host: flags, then a host, then run.

use std::process::ExitCode;

use io::config::Config;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// With a cache smaller than this, what is freed goes back to the system at once, although that costs time.
const SMALL_CACHE_BYTES: u64 = 512_000_000;

/// The place of `purge_delay` among mimalloc's options (`mi_option_e` in its header; version 3).
const PURGE_DELAY: libmimalloc_sys::mi_option_t = 15;

/// Let the process take no more memory than it uses: no huge pages, and what is freed is given back.
fn take_little_memory() {
    // SAFETY: both calls only set options of this process, before there are other threads; their arguments are the
    // ones that the manuals give (mimalloc, options; prctl(2), PR_SET_THP_DISABLE).
    unsafe {
        libmimalloc_sys::mi_option_set(PURGE_DELAY, 0);
        #[cfg(target_os = "linux")]
        libc::prctl(libc::PR_SET_THP_DISABLE, 1, 0, 0, 0);
    }
}

fn main() -> ExitCode {
    let config = Config::from_environment();
    if config.cache_size < SMALL_CACHE_BYTES {
        take_little_memory();
    }
    io::server::start_log(&config);
    match io::server::run(config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("error: {why}");
            ExitCode::FAILURE
        }
    }
}
