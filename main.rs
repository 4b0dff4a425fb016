//! The TinyChain host: flags, then a host, then run.

use std::process::ExitCode;

use io::config::Config;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// With a cache smaller than this, what is freed goes back to the system at once, although that costs time.
const SMALL_CACHE_BYTES: u64 = 512_000_000;

/// With a larger one, only what nobody has needed for so long: getting memory anew costs more than keeping some.
const PURGE_DELAY_MS: std::ffi::c_long = 10_000;

/// The place of `purge_delay` among mimalloc's options (`mi_option_e` in its header; version 3).
const PURGE_DELAY: libmimalloc_sys::mi_option_t = 15;

/// Fit the memory that the process takes beside its cache to how large that is.
fn fit_memory(cache_bytes: u64) {
    let is_small = cache_bytes < SMALL_CACHE_BYTES;
    // SAFETY: these calls only set options of this process, before there are other threads; their arguments are the
    // ones that the manuals give (mimalloc, options; prctl(2), PR_SET_THP_DISABLE).
    unsafe {
        libmimalloc_sys::mi_option_set(PURGE_DELAY, if is_small { 0 } else { PURGE_DELAY_MS });
        #[cfg(target_os = "linux")]
        if is_small {
            libc::prctl(libc::PR_SET_THP_DISABLE, 1, 0, 0, 0);
        }
    }
}

fn main() -> ExitCode {
    let config = Config::from_environment();
    fit_memory(config.cache_size);
    io::server::start_log(&config);
    match io::server::run(config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("error: {why}");
            ExitCode::FAILURE
        }
    }
}
