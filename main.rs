//! The TinyChain host: flags, then a host, then run.

use std::process::ExitCode;

use io::config::Config;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let config = Config::from_environment();
    io::server::start_log(&config);
    match io::server::run(config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("error: {why}");
            ExitCode::FAILURE
        }
    }
}
