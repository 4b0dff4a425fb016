//! From flags to a running host, and to its end.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs, UdpSocket};
use std::num::NonZero;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Instant;

use components::hosting::cluster::{Catalog, ClusterConfig};
use components::hosting::storage::{Read, Write};
use components::value::ids::PageId;
use components::value::limits::STORED_STACK_BYTES;
use crossbeam_channel::{Sender, bounded};
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use world::host::PROGRAM_STACK_BYTES;
use world::load::{Loaded, load};
use world::{EFFECTS_BYTES_MAX, Host, HostConfig, Inherited, JobLimits, Limits};

use crate::config::{Config, PLAIN_DATA_DIR};
use crate::driver::{Driver, Ended, MakeHost, answers, distribute, monotonic_ns, now_ns};
use crate::gateway::{Event, Gateway, QUEUE_EVENTS_MAX};
use crate::http::{self, serve};
use crate::jobs::Jobs;
use crate::keys::Keys;
use crate::metrics::Metrics;
use crate::pages::Pages;
use crate::persistence::Persistence;
use crate::storage::{Reader, Store};
use crate::workspace::Workspace;
use crate::{descriptors, json, signals};

/// The stack of a thread that serves connections, in bytes: decoding recurses as deep as documents nest, encoding as
/// deep as states do, and that is twice as deep.
const CONNECTION_STACK_BYTES: usize = 4 * http::THREAD_STACK_BYTES;

/// The storage may take this part of `--cache_size`, within [`STORAGE_BYTES_MIN`] and [`STORAGE_BYTES_MAX`].
const STORAGE_SHARE: u64 = 4;
const STORAGE_BYTES_MIN: u64 = 8 * 1024 * 1024;
const STORAGE_BYTES_MAX: u64 = 256 * 1024 * 1024;

/// How much memory the storage may take, in bytes.
fn storage_bytes(cache_bytes: u64) -> u64 {
    (cache_bytes / STORAGE_SHARE).clamp(STORAGE_BYTES_MIN, STORAGE_BYTES_MAX)
}

/// Run a host until it is asked to stop.
///
/// # Errors
/// Why it cannot start or go on, in one line.
pub fn run(mut config: Config) -> Result<(), String> {
    signals::install();
    tracing::info!("tinychain {} starts as process {}", env!("CARGO_PKG_VERSION"), std::process::id());
    let limit = descriptors::raise_limit();
    let connections = descriptors::connections_within(limit, config.http.max_connections);
    if connections < config.http.max_connections {
        tracing::warn!("at most {connections} connections, as this process may open {limit} files");
        config.http.max_connections = connections;
    }
    // One processor is left to the world: a server thread for each would only take turns with it (`BENCHMARKS.md`).
    let processors = thread::available_parallelism().map_or(1, NonZero::get);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(processors.saturating_sub(1).max(1))
        .enable_all()
        .thread_stack_size(CONNECTION_STACK_BYTES)
        .build()
        .map_err(|cause| format!("cannot start the threads of the server: {cause}"))?;
    // The address first: whether it is free is known before anything is touched.
    let address = config.socket_address();
    let listener = runtime
        .block_on(async { http::listen(address) })
        .map_err(|cause| format!("cannot listen on {address}: {cause}"))?;
    let clusters = read_clusters(&config)?;
    let port = listener.local_addr().map_err(|cause| cause.to_string())?.port();
    check_canonical(&clusters, SocketAddr::new(config.socket_address().ip(), port))?;
    fs::create_dir_all(&config.workspace)
        .map_err(|cause| format!("cannot make --workspace {}: {cause}", config.workspace.display()))?;
    if config.data_dir.as_deref() == Some(Path::new(PLAIN_DATA_DIR)) {
        fs::create_dir_all(PLAIN_DATA_DIR)
            .map_err(|cause| format!("cannot make {PLAIN_DATA_DIR}: {cause}"))?;
    }
    match &config.data_dir {
        Some(directory) => tracing::info!("the data is in {}", directory.display()),
        None => tracing::warn!("nothing is kept, as there is no --data_dir"),
    }
    let memory_bytes = storage_bytes(config.cache_size);
    let begun = Instant::now();
    let store = config.data_dir.as_deref().map(|directory| Store::open_directory(directory, memory_bytes));
    let store = store.transpose().map_err(|cause| cause.to_string())?;
    let ended = runtime.block_on(run_on(config, listener, clusters, store, begun));
    match &ended {
        Ok(()) => tracing::info!("the host has stopped"),
        Err(why) => tracing::info!("the host has failed: {why}"),
    }
    ended
}

fn read_clusters(config: &Config) -> Result<Vec<ClusterConfig>, String> {
    let mut clusters = Vec::new();
    for path in &config.cluster {
        clusters.append(&mut read_cluster(path).map_err(|why| format!("{}: {why}", path.display()))?);
    }
    Ok(clusters)
}

fn read_cluster(path: &Path) -> Result<Vec<ClusterConfig>, String> {
    let mut text = fs::read(path).map_err(|cause| cause.to_string())?;
    json::with_document(&mut text, ClusterConfig::decode).map_err(|error| error.message().to_string())
}

/// The address that this host gives out in links.
fn origin(config: &Config) -> String {
    let address = config.socket_address();
    // Nobody can be reached at 0.0.0.0, but whoever listens there can be reached at localhost.
    match address.ip() {
        ip if ip.is_unspecified() => format!("http://127.0.0.1:{}", address.port()),
        ip => format!("http://{}", std::net::SocketAddr::new(ip, address.port())),
    }
}

/// Refuse clusters that another host serves canonically: what is served here would be a copy, of which that host never
/// hears.
fn check_canonical(clusters: &[ClusterConfig], own: SocketAddr) -> Result<(), String> {
    for ClusterConfig { link, path, .. } in clusters {
        if let Some(other) = link.origin()
            && !is_own(other, own)
        {
            return Err(format!(
                "the cluster {path} is canonically served by {other}, which is not this host, {own}; replicas of clusters \
                 are not supported yet"
            ));
        }
    }
    Ok(())
}

/// Whether an origin, `http://<host>[:<port>]`, is where this host listens.
fn is_own(origin: &str, own: SocketAddr) -> bool {
    let Some(authority) = origin.strip_prefix("http://") else { return false };
    // An IPv6 address may come without brackets.
    let bare = authority.trim_start_matches('[').trim_end_matches(']');
    let addresses: Vec<SocketAddr> = match (authority.parse(), bare.parse::<IpAddr>()) {
        (Ok(address), _) => vec![address],
        (_, Ok(ip)) => vec![SocketAddr::new(ip, HTTP_PORT)],
        _ if authority.contains(':') => {
            authority.to_socket_addrs().map(Iterator::collect).unwrap_or_default()
        }
        _ => (authority, HTTP_PORT).to_socket_addrs().map(Iterator::collect).unwrap_or_default(),
    };
    addresses.iter().any(|address| {
        let is_here = match own.ip() {
            // Only an address of this machine can be bound to.
            ip if ip.is_unspecified() => UdpSocket::bind((address.ip(), 0)).is_ok(),
            ip => ip == address.ip(),
        };
        is_here && address.port() == own.port()
    })
}

/// The port of a link that names none.
const HTTP_PORT: u16 = 80;

/// What a world is made of, as it is stored.
fn load_world(
    storage: Option<&dyn Read>,
    clusters: Vec<ClusterConfig>,
    origin: &str,
) -> Result<(Loaded, Vec<Write>), String> {
    let mut keys = Keys::new(storage);
    let host_key = keys.public_key(&components::Path::root())?;
    let mut cluster_keys = BTreeMap::new();
    for cluster in &clusters {
        cluster_keys.insert(cluster.path.clone(), keys.public_key(&cluster.path)?);
    }
    let catalog = Catalog::new(origin, host_key);
    let loaded = match storage {
        Some(storage) => load(storage, clusters, catalog, |path| cluster_keys[path])?,
        None => {
            assert!(clusters.is_empty(), "flags do not allow clusters without a data directory");
            Loaded {
                catalog,
                chains: Vec::new(),
                last_page: PageId::default(),
                garbage: Vec::new(),
                writes: Vec::new(),
            }
        }
    };
    Ok((loaded, keys.writes))
}

/// Say which chains are not served, and why.
fn note_refused(catalog: &Catalog, metrics: &Metrics) {
    let named = |(id, why): (&_, &Arc<str>)| (catalog.chains[id].address.to_string(), why.to_string());
    let refused: BTreeMap<String, String> = catalog.refused.iter().map(named).collect();
    for (address, why) in &refused {
        tracing::error!("the chain {address} is refused, all else is served: {why}");
    }
    metrics.note_refused(refused);
}

/// Do what reads stored values, which may be nested, with the stack that it needs.
pub(crate) fn on_stored_stack<T: Send>(read: impl FnOnce() -> Result<T, String> + Send) -> Result<T, String> {
    thread::scope(|scope| {
        let thread = thread::Builder::new().name("load".into()).stack_size(STORED_STACK_BYTES);
        let thread = thread.spawn_scoped(scope, read);
        let thread = thread.map_err(|cause| format!("cannot start a thread: {cause}"))?;
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

fn limits(config: &Config) -> Limits {
    Limits {
        request_ttl_ns: config.request_ttl * 1_000_000_000,
        // A quarter is the storage's; what is left is for the rows that pages lack, and for what is under way.
        page_cache_bytes: config.cache_size / 8 * 3,
        pinned_bytes_max: config.max_pinned_bytes,
        effects_bytes_max: (config.cache_size / 16).min(EFFECTS_BYTES_MAX),
        jobs: JobLimits::of_cache(config.cache_size),
        ..Limits::default()
    }
}

/// What makes worlds.
struct WorldMaker {
    reader: Option<Reader>,
    clusters: Vec<ClusterConfig>,
    origin: String,
    limits: Limits,
    threads: usize,
    metrics: Arc<Metrics>,
}

impl WorldMaker {
    /// What is stored, verified, and what has to be stored for it.
    fn load(&self) -> Result<(Loaded, Vec<Write>), String> {
        let storage = self.reader.as_ref().map(|reader| reader as &dyn Read);
        let (loaded, writes) = load_world(storage, self.clusters.clone(), &self.origin)?;
        note_refused(&loaded.catalog, &self.metrics);
        Ok((loaded, writes))
    }

    /// Makes worlds, the first one of what was loaded: what is stored was checked to get there, and only after a defect
    /// that is done again.
    fn making(self, first: Loaded) -> MakeHost {
        let mut first = Some(first);
        Box::new(move |answers| {
            let Loaded { catalog, chains, last_page, garbage, writes } = match first.take() {
                Some(loaded) => loaded,
                None => self.load()?.0,
            };
            let inherited = Inherited { garbage, answers, writes };
            let (limits, threads, now_ns, monotonic_ns) =
                (self.limits, self.threads, now_ns(), monotonic_ns());
            Host::new(HostConfig {
                catalog,
                chains,
                last_page,
                inherited,
                limits,
                threads,
                now_ns,
                monotonic_ns,
            })
        })
    }
}

/// Load what is stored, and store what is new.
fn recover(maker: &WorldMaker, store: &mut Option<Store>, begun: Instant) -> Result<Loaded, String> {
    let (mut loaded, mut writes) = on_stored_stack(|| maker.load())?;
    // Chains and keys that are new are durable before the first request.
    writes.append(&mut loaded.writes);
    let is_needed = writes.iter().any(|write| write.value.is_some());
    if let Some(store) = store
        && !writes.is_empty()
    {
        match store.commit(&[std::mem::take(&mut writes)]) {
            // What is only to be deleted can wait for a start with room: without any, there are still things to read.
            Err(cause) if cause.is_no_room() && !is_needed => {
                tracing::warn!("what is of no use any more stays: {cause}");
            }
            result => result.map_err(|cause| cause.to_string())?,
        }
    }
    let recovery_ms = begun.elapsed().as_millis();
    tracing::info!("recovered {} chains in {recovery_ms} ms", loaded.chains.len());
    for cluster in &maker.clusters {
        tracing::info!("serves {}", cluster.path);
    }
    for write in loaded.catalog.unawaited_writes() {
        tracing::warn!("{write}");
    }
    Ok(loaded)
}

async fn run_on(
    config: Config,
    listener: TcpListener,
    clusters: Vec<ClusterConfig>,
    mut store: Option<Store>,
    begun: Instant,
) -> Result<(), String> {
    let metrics = Arc::new(Metrics::default());
    let reader: Option<Reader> = store.as_ref().map(Store::reader);
    let pages = Pages::new(reader.clone(), config.threads)?;
    let (origin, limits, threads) = (origin(&config), limits(&config), config.threads);
    let maker =
        WorldMaker { reader: reader.clone(), clusters, origin, limits, threads, metrics: metrics.clone() };
    let loaded = recover(&maker, &mut store, begun)?;
    let served = Arc::new(loaded.catalog.clone());

    let (sender, events) = bounded(QUEUE_EVENTS_MAX);
    let ready = Arc::new(AtomicBool::new(false));
    let workspace = Workspace::new(config.workspace.clone(), config.cache_size, metrics.clone());
    let workspace = Arc::new(workspace);
    let jobs = Jobs::start(threads, reader, workspace.clone(), sender.clone())?;
    let persistence = match store {
        Some(store) => Some(
            Persistence::start(store, sender.clone(), metrics.clone())
                .map_err(|cause| format!("cannot start the threads of the storage: {cause}"))?,
        ),
        None => None,
    };
    let (answers, deliveries) = answers(sender.clone());
    tokio::spawn(distribute(deliveries));
    let make_host = maker.making(loaded);
    let driver =
        Driver::new(make_host, events, answers, persistence, Some(jobs), metrics.clone(), ready.clone())?
            .with_drain_timeout(config.http.drain_timeout());
    let (ended_sender, ended) = tokio::sync::oneshot::channel();
    thread::Builder::new()
        .name("world".into())
        .stack_size(PROGRAM_STACK_BYTES)
        .spawn(move || {
            let _ = ended_sender.send(driver.run());
        })
        .map_err(|cause| format!("cannot start the thread of the world: {cause}"))?;

    let address = listener.local_addr().map_err(|cause| cause.to_string())?;
    ready.store(true, Ordering::Relaxed);
    tracing::info!("listens on {address}, for {} connections", config.http.max_connections);
    let signals = stop_signals();
    // The line that says that all is well. A closed stdout is no reason not to serve.
    let _ = writeln!(std::io::stdout(), "HTTP server listening on {address}");
    let shutdown = CancellationToken::new();
    let server = tokio::spawn(serve(
        listener,
        Gateway::new(sender.clone()).with_pages(pages).with_workspace(workspace).with_catalog(served),
        Arc::new(config.http.clone()),
        metrics,
        ready,
        shutdown.clone(),
    ));
    until_stopped(signals, ended, &sender, &shutdown, server).await
}

/// Wait until the host is asked to stop, or fails, and for all that it has begun.
async fn until_stopped(
    signals: Option<(Signal, Signal)>,
    mut ended: oneshot::Receiver<Ended>,
    sender: &Sender<Event>,
    shutdown: &CancellationToken,
    server: JoinHandle<std::io::Result<()>>,
) -> Result<(), String> {
    let ended_early = tokio::select! {
        ended = &mut ended => Some(ended),
        () = stopped(signals) => None,
    };
    if ended_early.is_none() {
        tracing::info!("asked to stop; what runs is finished");
    }
    // First no new connections, then no new requests; those that run are finished.
    shutdown.cancel();
    let ended = match ended_early {
        Some(ended) => ended,
        None => {
            let drain = sender.clone();
            // The queue may be full; waiting for room must not hold up the connections.
            let _ = tokio::task::spawn_blocking(move || drop(drain.send(Event::Drain))).await;
            ended.await
        }
    };
    let result = match ended {
        Ok(Ended::Drained) => Ok(()),
        Ok(Ended::Failed(why)) => Err(why),
        Err(_) => Err("the thread of the world panicked".to_string()),
    };
    match server.await {
        Ok(Ok(())) => result,
        Ok(Err(cause)) => result.and(Err(format!("the server has failed: {cause}"))),
        Err(cause) => result.and(Err(format!("the server has failed: {cause}"))),
    }
}

/// What asks the process to stop. From when it is made on, nothing else stops it (`SIGTERM`, Ctrl-C).
fn stop_signals() -> Option<(Signal, Signal)> {
    let signals = signal(SignalKind::terminate()).and_then(|it| Ok((it, signal(SignalKind::interrupt())?)));
    signals
        .inspect_err(|cause| {
            tracing::error!("signals cannot be handled, only SIGKILL stops this host: {cause}")
        })
        .ok()
}

/// Resolves when the process is asked to stop.
async fn stopped(signals: Option<(Signal, Signal)>) {
    let Some((mut terminate, mut interrupt)) = signals else { return std::future::pending().await };
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
}
