//! The TinyChain host: flags, then a host, then run; or a command for the data of a host that does not run.

use std::process::ExitCode;

use io::allocator::{self, Allocator};
use io::config::{Command, Config};
use io::log::Log;

#[global_allocator]
static ALLOCATOR: Allocator = Allocator;

fn main() -> ExitCode {
    let config = Config::from_environment();
    allocator::fit(config.cache_size);
    let log = match Log::start(config.log_filter()) {
        Ok(log) => log,
        Err(why) => {
            eprintln!("error: {why}");
            return ExitCode::FAILURE;
        }
    };
    let ended = match &config.command {
        Some(Command::Verify(config)) => io::verify::run(config),
        Some(Command::Restore(config)) => io::restore::run(&config.file, &config.data_dir),
        None => io::server::run(config),
    };
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            log.say(&format!("error: {why}"));
            ExitCode::FAILURE
        }
    }
}
