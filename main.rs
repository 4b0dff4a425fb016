//! The TinyChain host: flags, then a host, then run.

use std::process::ExitCode;

use io::allocator::{self, Allocator};
use io::config::Config;
use io::log::Log;

#[global_allocator]
static ALLOCATOR: Allocator = Allocator;

fn main() -> ExitCode {
    let config = Config::from_environment();
    allocator::fit(config.cache_size);
    let log = match Log::start(&config) {
        Ok(log) => log,
        Err(why) => {
            eprintln!("error: {why}");
            return ExitCode::FAILURE;
        }
    };
    match io::server::run(config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            log.say(&format!("error: {why}"));
            ExitCode::FAILURE
        }
    }
}
