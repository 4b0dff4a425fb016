//! The real host: the binary of this build, on a port and a directory of its own.

use std::fs::File;
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::http::{Answer, Request, call, send};
use crate::steps::Runner;

/// How long a start may take.
const START_TIMEOUT: Duration = Duration::from_secs(60);

/// Where hosts listen: below the ports that the kernel gives to clients, so that nobody takes one between two starts.
const PORTS: std::ops::Range<u32> = 14_000..20_000;

/// A port that nobody listens on; processes begin in different places.
fn free_port() -> u16 {
    static TRIED: AtomicU32 = AtomicU32::new(0);
    loop {
        let offset = std::process::id().wrapping_mul(37).wrapping_add(TRIED.fetch_add(1, Ordering::Relaxed));
        let port = (PORTS.start + offset % (PORTS.end - PORTS.start)) as u16;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

/// A host that runs as a process.
pub struct Binary {
    directory: tempfile::TempDir,
    port: u16,
    process: Child,
    /// How often it was killed in the middle of a request.
    crashes: u64,
}

impl Binary {
    /// Start a host with a new data directory that serves this configuration.
    pub fn start(cluster: &serde_json::Value) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        std::fs::write(directory.path().join("cluster.json"), cluster.to_string()).expect("a file");
        for name in ["data", "workspace"] {
            std::fs::create_dir(directory.path().join(name)).expect("a directory");
        }
        let port = free_port();
        let process = Self::spawn(&directory, port);
        let mut host = Self { directory, port, process, crashes: 0 };
        host.wait();
        host
    }

    fn spawn(directory: &tempfile::TempDir, port: u16) -> Child {
        let path = |name: &str| directory.path().join(name).display().to_string();
        let log =
            File::options().append(true).create(true).open(directory.path().join("log")).expect("a file");
        Command::new(env!("CARGO_BIN_EXE_tinychain"))
            .arg(format!("--http_port={port}"))
            .arg(format!("--data_dir={}", path("data")))
            .arg(format!("--workspace={}", path("workspace")))
            .arg(format!("--cluster={}", path("cluster.json")))
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("the host")
    }

    fn wait(&mut self) {
        let begun = Instant::now();
        while call(self.port, &Request::get("/readyz")).is_err() {
            if let Some(status) = self.process.try_wait().expect("a process") {
                panic!("the host does not start: {status}: {}", self.log());
            }
            assert!(begun.elapsed() < START_TIMEOUT, "the host is not ready: {}", self.log());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.log_path()).expect("a log")
    }

    fn log_path(&self) -> PathBuf {
        self.directory.path().join("log")
    }
}

impl Runner for Binary {
    fn call(&mut self, request: &Request) -> Answer {
        call(self.port, request).unwrap_or_else(|cause| panic!("{request:?}: {cause}; {}", self.log()))
    }

    fn crash_during(&mut self, request: &Request) -> Option<Answer> {
        let stream = send(self.port, request).expect("a connection");
        // Some are killed before the request comes, some while it runs, some after it.
        std::thread::sleep(Duration::from_micros(self.crashes * 97 % 1_500));
        self.crashes += 1;
        self.restart();
        drop(stream);
        None
    }

    fn now_ns(&self) -> u64 {
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock");
        u64::try_from(since_epoch.as_nanos()).expect("a time")
    }

    fn restart(&mut self) {
        self.process.kill().expect("a process");
        self.process.wait().expect("a process");
        self.process = Self::spawn(&self.directory, self.port);
        self.wait();
    }

    fn end(&mut self) {
        assert_eq!(self.log(), "", "the host has nothing to say");
    }
}

impl Drop for Binary {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
