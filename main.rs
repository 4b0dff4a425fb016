//! The TinyChain host: flags, then a host, then run.

use std::process::ExitCode;

use io::allocator::{self, Allocator};
use io::config::Config;

#[global_allocator]
static ALLOCATOR: Allocator = Allocator;

fn main() -> ExitCode {
    let config = Config::from_environment();
    allocator::fit(config.cache_size);
    io::server::start_log(&config);
    match io::server::run(config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("error: {why}");
            ExitCode::FAILURE
        }
    }
}
