//! The flags of the host (protocol page 04 §1.1, §1.2).

use std::ffi::OsString;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use clap::error::ErrorKind;
use clap::{Args, Parser, Subcommand};
use tracing_subscriber::EnvFilter;
use world::PINNED_BYTES_MAX;

use crate::http::limits::HttpConfig;

/// The address to listen on unless told.
pub const ADDRESS: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// The port to listen on unless told.
pub const HTTP_PORT: u16 = 8702;

/// Where transactions put what does not fit in memory, unless told.
pub const WORKSPACE: &str = "/tmp/tc/tmp";

/// The time limit of a request unless told.
pub const REQUEST_TTL_S: u64 = 30;

/// The longest time limit of a request: a day.
pub const REQUEST_TTL_MAX_S: u64 = 86_400;

/// The smallest cache, other than none.
pub const CACHE_BYTES_MIN: u64 = 5_000;

/// The most threads of the world.
pub const THREADS_MAX: usize = 1_024;

/// Everything that the command line says.
#[derive(Clone, Debug, Parser)]
#[command(
    name = "tinychain",
    version,
    about = "A transactional database and application server that speaks JSON over HTTP",
    args_conflicts_with_subcommands = true
)]
pub struct Config {
    /// What to do instead of running a host.
    #[command(subcommand)]
    pub command: Option<Command>,

    /// Address to listen on, and host part of the links that this host gives out.
    #[arg(long, value_name = "IP", default_value_t = ADDRESS)]
    pub address: IpAddr,

    /// Port to listen on, for HTTP/1.1 and HTTP/2 without TLS.
    #[arg(long = "http_port", value_name = "PORT", default_value_t = HTTP_PORT)]
    pub http_port: u16,

    /// Directory for the scratch space of running transactions; it is made if it is missing.
    #[arg(long, value_name = "DIR", default_value = WORKSPACE)]
    pub workspace: PathBuf,

    /// Directory for what is kept; it must exist. Without it nothing is kept.
    #[arg(long = "data_dir", value_name = "DIR")]
    pub data_dir: Option<PathBuf>,

    /// File that configures services to host, as the client's write_cluster makes it; may be repeated.
    #[arg(long, value_name = "FILE", num_args = 1.., requires = "data_dir")]
    pub cluster: Vec<PathBuf>,

    /// Memory for the cache of pages: digits, then K, M or G (powers of 1000).
    #[arg(long = "cache_size", value_name = "SIZE", default_value = "1G", value_parser = cache_size)]
    pub cache_size: u64,

    /// What may be kept in storage for nothing but replies that are read slowly, in bytes; beyond, they are broken off.
    #[arg(long = "max_pinned_bytes", value_name = "N", default_value_t = PINNED_BYTES_MAX)]
    pub max_pinned_bytes: u64,

    /// Time limit of a request and of the tokens that this host issues, in whole seconds.
    #[arg(long = "request_ttl", value_name = "S", default_value_t = REQUEST_TTL_S,
          value_parser = clap::value_parser!(u64).range(1..=REQUEST_TTL_MAX_S))]
    pub request_ttl: u64,

    /// What to log: off, error, warn, info, debug, trace, or a filter such as io=debug,warn. RUST_LOG wins.
    #[arg(long = "log_level", value_name = "LEVEL", default_value = "warn", value_parser = log_level)]
    pub log_level: String,

    /// Threads that advance transactions [default: one for each processor].
    #[arg(long, value_name = "N", default_value_t = default_threads(), hide_default_value = true,
          value_parser = threads)]
    pub threads: usize,

    /// The limits of the HTTP server.
    #[command(flatten)]
    pub http: HttpConfig,
}

/// What there is to do with the data of a host that does not run.
#[derive(Clone, Debug, Subcommand)]
pub enum Command {
    /// Read everything that is kept, and check it: checksums, histories, rows and their indices
    Verify(VerifyConfig),
    /// Make a data directory from a backup, which `GET /debug/backup` of a host gives, and verify it
    Restore(RestoreConfig),
}

/// What to restore.
#[derive(Args, Clone, Debug)]
pub struct RestoreConfig {
    /// The backup.
    #[arg(value_name = "FILE")]
    pub file: PathBuf,

    /// Directory for what is kept; it is made if it is missing, and must hold no data.
    #[arg(long = "data_dir", value_name = "DIR")]
    pub data_dir: PathBuf,
}

/// What to verify.
#[derive(Args, Clone, Debug)]
pub struct VerifyConfig {
    /// Directory for what is kept.
    #[arg(long = "data_dir", value_name = "DIR")]
    pub data_dir: PathBuf,
}

/// How the host cannot start, or has nothing to start for.
#[derive(Debug)]
pub enum Exit {
    /// `--help` or `--version`: this is for stdout, and the status is 0.
    Answer(String),
    /// A usage error: this one line is for stderr, and the status is [`USAGE_STATUS`].
    Usage(String),
}

/// Where a host that is started without any flag keeps its data, below the current directory.
pub const PLAIN_DATA_DIR: &str = "data";

/// The exit status of a usage error.
pub const USAGE_STATUS: u8 = 2;

impl Config {
    /// Read the flags of a command line, program name first.
    ///
    /// # Errors
    /// What to print, and where, instead of starting a host.
    pub fn from_args<T: Into<OsString> + Clone>(args: impl IntoIterator<Item = T>) -> Result<Self, Exit> {
        let usage = |message: String| Exit::Usage(format!("error: {message}"));
        let config = Self::try_parse_from(args).map_err(|error| match error.kind() {
            ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => Exit::Answer(error.render().to_string()),
            _ => Exit::Usage(first_paragraph(&error.render().to_string())),
        })?;
        let data_dir = match &config.command {
            Some(Command::Verify(VerifyConfig { data_dir })) => Some(data_dir),
            Some(Command::Restore(RestoreConfig { file, .. })) if !file.is_file() => {
                return Err(usage(format!("{} is not an existing file", file.display())));
            }
            // Its directory is made.
            Some(Command::Restore(_)) => None,
            None => config.data_dir.as_ref(),
        };
        if let Some(data_dir) = data_dir.filter(|data_dir| !data_dir.is_dir()) {
            return Err(usage(format!("--data_dir {} is not an existing directory", data_dir.display())));
        }
        if let Some(cluster) = config.cluster.iter().find(|cluster| !cluster.is_file()) {
            return Err(usage(format!("--cluster {} is not an existing file", cluster.display())));
        }
        Ok(config)
    }

    /// Read the flags of this process; print and exit if no host is to start. Without any flag at all, data is kept
    /// in [`PLAIN_DATA_DIR`], which is made if it is missing.
    pub fn from_environment() -> Self {
        let is_plain = std::env::args_os().len() <= 1;
        match Self::from_args(std::env::args_os()) {
            Ok(config) if is_plain => Self { data_dir: Some(PLAIN_DATA_DIR.into()), ..config },
            Ok(config) => config,
            Err(Exit::Answer(text)) => {
                print!("{text}");
                std::process::exit(0);
            }
            Err(Exit::Usage(line)) => {
                eprintln!("{line}");
                std::process::exit(USAGE_STATUS.into());
            }
        }
    }

    /// Where to listen.
    pub fn socket_address(&self) -> SocketAddr {
        SocketAddr::new(self.address, self.http_port)
    }

    /// The time limit of a request.
    pub fn request_ttl(&self) -> Duration {
        Duration::from_secs(self.request_ttl)
    }

    /// What to log: `RUST_LOG` if it is set and a valid filter, else `--log_level`.
    pub fn log_filter(&self) -> EnvFilter {
        let variable = std::env::var("RUST_LOG").ok().filter(|filter| !filter.is_empty());
        variable
            .and_then(|filter| EnvFilter::try_new(filter).ok())
            .unwrap_or_else(|| EnvFilter::new(&self.log_level))
    }
}

/// clap explains at length; an error of this host is one line.
fn first_paragraph(text: &str) -> String {
    let lines = text.lines().map(str::trim).take_while(|line| !line.is_empty());
    lines.collect::<Vec<_>>().join(" ")
}

fn default_threads() -> usize {
    std::thread::available_parallelism().map_or(1, |threads| threads.get().min(THREADS_MAX))
}

fn threads(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(threads @ 1..=THREADS_MAX) => Ok(threads),
        _ => Err(format!("a number from 1 to {THREADS_MAX} is needed")),
    }
}

/// `0` or nothing is no cache; anything else has a unit and is at least [`CACHE_BYTES_MIN`].
fn cache_size(text: &str) -> Result<u64, String> {
    if text.is_empty() || text == "0" {
        return Ok(0);
    }
    let form = || "digits and then K, M or G are needed, such as 500M".to_string();
    let (digits, unit) = text.split_at_checked(text.len() - 1).ok_or_else(form)?;
    let unit: u64 = match unit {
        "K" => 1_000,
        "M" => 1_000_000,
        "G" => 1_000_000_000,
        _ => return Err(form()),
    };
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(form());
    }
    let bytes = digits.parse::<u64>().ok().and_then(|number| number.checked_mul(unit));
    match bytes.ok_or("this is more than any machine has")? {
        bytes @ 1..CACHE_BYTES_MIN => Err(format!("{bytes} bytes are less than {CACHE_BYTES_MIN}")),
        bytes => Ok(bytes),
    }
}

fn log_level(text: &str) -> Result<String, String> {
    const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];
    // A word alone is a level; EnvFilter would take an unknown one for the name of a module.
    let unknown = text.split(',').find(|part| {
        !part.contains('=') && !part.contains("::") && !LEVELS.contains(&part.trim().to_lowercase().as_str())
    });
    if unknown.is_some() || EnvFilter::try_new(text).is_err() {
        return Err(format!("one of {} or a filter such as io=debug,warn is needed", LEVELS.join(", ")));
    }
    Ok(text.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(args: &[&str]) -> Result<Config, Exit> {
        Config::from_args(["tinychain"].iter().chain(args))
    }

    fn usage(args: &[&str]) -> String {
        match parse(args) {
            Err(Exit::Usage(line)) => {
                assert_eq!(line.lines().count(), 1, "{line}");
                line
            }
            other => panic!("{args:?}: {other:?}"),
        }
    }

    #[test]
    fn nothing_is_needed() {
        let config = parse(&[]).unwrap();
        assert_eq!(config.socket_address().to_string(), "127.0.0.1:8702");
        assert_eq!(config.workspace, PathBuf::from("/tmp/tc/tmp"));
        assert_eq!((config.data_dir, config.cluster.len()), (None, 0));
        assert_eq!((config.cache_size, config.request_ttl), (1_000_000_000, 30));
        assert_eq!(config.log_level, "warn");
        assert!(config.threads >= 1);
        assert_eq!(config.http.max_body_bytes, 64 << 20);
        assert_eq!(format!("{:?}", config.http), format!("{:?}", HttpConfig::default()));
    }

    #[test]
    fn the_arguments_of_the_client() {
        let directory = std::env::temp_dir();
        let directory = directory.to_str().unwrap();
        let file = concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml");
        let config = parse(&[
            &format!("--workspace={directory}"),
            "--http_port=8702",
            "--log_level=debug",
            "--cache_size=5K",
            "--request_ttl=30",
            &format!("--data_dir={directory}"),
            &format!("--cluster={file}"),
            &format!("--cluster={file}"),
        ])
        .unwrap();
        assert_eq!(config.workspace, PathBuf::from(directory));
        assert_eq!(config.data_dir, Some(PathBuf::from(directory)));
        assert_eq!(config.cluster, [PathBuf::from(file), PathBuf::from(file)]);
        assert_eq!((config.cache_size, config.log_level.as_str()), (5_000, "debug"));
    }

    #[test]
    fn several_clusters_follow_one_flag() {
        let directory = std::env::temp_dir();
        let file = concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml");
        let args = ["--cluster", file, file, "--data_dir", directory.to_str().unwrap(), "--cluster", file];
        assert_eq!(parse(&args).unwrap().cluster.len(), 3);
        assert!(usage(&["--cluster", file]).contains("--data_dir"));
        assert!(usage(&["--cluster"]).contains("--cluster"));
        let missing = ["--cluster", "/nowhere.json", "--data_dir", directory.to_str().unwrap()];
        assert!(usage(&missing).contains("/nowhere.json"));
    }

    #[test]
    fn cache_sizes() {
        for (text, bytes) in
            [("", 0), ("0", 0), ("0K", 0), ("5K", 5_000), ("17M", 17_000_000), ("1G", 1_000_000_000)]
        {
            assert_eq!(parse(&[&format!("--cache_size={text}")]).unwrap().cache_size, bytes, "{text}");
        }
        for text in ["10", "5000", "4K", "1T", "1k", "K", "-1K", "1.5G", "+1G", "99999999999999999999G", "9é"]
        {
            assert!(usage(&[&format!("--cache_size={text}")]).contains("--cache_size"), "{text}");
        }
    }

    #[test]
    fn other_values() {
        assert_eq!(parse(&["--address=::1"]).unwrap().socket_address().to_string(), "[::1]:8702");
        assert_eq!(parse(&["--address", "0.0.0.0"]).unwrap().address.to_string(), "0.0.0.0");
        assert_eq!(parse(&["--threads=4"]).unwrap().threads, 4);
        assert_eq!(parse(&["--max_body_bytes=10"]).unwrap().http.max_body_bytes, 10);
        for level in ["off", "error", "warn", "info", "debug", "trace", "io=debug", "io::http=trace,warn"] {
            assert_eq!(parse(&["--log_level", level]).unwrap().log_level, level);
        }
        for bad in [
            "--address=localhost",
            "--http_port=70000",
            "--http_port=",
            "--request_ttl=1.5",
            "--request_ttl=0",
            "--log_level=loud",
            "--log_level=io=loud",
            "--threads=0",
            "--max_connections=0",
            "--data_dir=/nowhere",
            "--unknown",
            "stray",
        ] {
            usage(&[bad]);
        }
    }

    #[test]
    fn commands_have_flags_of_their_own() {
        let directory = std::env::temp_dir();
        let data_dir = format!("--data_dir={}", directory.display());
        let Some(Command::Verify(config)) = parse(&["verify", &data_dir]).unwrap().command else {
            panic!("not verify");
        };
        assert_eq!(config.data_dir, directory);
        assert!(usage(&["verify"]).contains("--data_dir"));
        assert!(usage(&["verify", "--data_dir=/nowhere"]).contains("/nowhere"));
        usage(&["--threads=1", "verify", &data_dir]);
        usage(&["verify", &data_dir, "--threads=1"]);
    }

    #[test]
    fn help_and_version_are_answers() {
        let Err(Exit::Answer(help)) = parse(&["--help"]) else { panic!("no help") };
        for flag in ["--http_port", "--cache_size", "--max_connections", "--idle_timeout_ms", "--threads"] {
            assert!(help.contains(flag), "{flag}");
        }
        let Err(Exit::Answer(version)) = parse(&["--version"]) else { panic!("no version") };
        assert_eq!(version.trim(), format!("tinychain {}", env!("CARGO_PKG_VERSION")));
    }
}
