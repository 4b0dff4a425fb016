//! How much the host's HTTP server costs beside a bare hyper server: `cargo bench -p io --bench http`.
//!
//! Both run in this process, under the same load generator, in turn: 32 keep-alive connections that each send
//! `GET /state/scalar/value/string?key="Hello"` and wait. Behind ours stands a thread that answers with the key,
//! in the place of the world; the other answers a constant of the same length.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::{Empty, Full};
use hyper::body::Body;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use io::gateway::{Event, Gateway};
use io::http::limits::HttpConfig;
use io::http::{listen, serve};
use io::metrics::Metrics;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

#[global_allocator]
static ALLOCATOR: io::allocator::Allocator = io::allocator::Allocator;

const CONNECTIONS: usize = 32;
const ROUNDS: usize = 5;
const WARM_UP: Duration = Duration::from_millis(500);
const ROUND: Duration = Duration::from_secs(2);
const TARGET: &str = "/state/scalar/value/string?key=%22Hello%22";

async fn bare(listener: TcpListener) {
    loop {
        let Ok((stream, _)) = listener.accept().await else { continue };
        let _ = stream.set_nodelay(true);
        tokio::spawn(http1::Builder::new().pipeline_flush(true).serve_connection(
            TokioIo::new(stream),
            service_fn(|_| async {
                let reply = hyper::Response::builder().header("content-type", "application/json");
                Ok::<_, Infallible>(reply.body(Full::new(Bytes::from_static(b"\"Hello\"\n"))).unwrap())
            }),
        ));
    }
}

fn echo() -> Gateway {
    let (events, inputs) = crossbeam_channel::bounded(1024);
    std::thread::spawn(move || {
        for event in inputs {
            if let Event::Request { request, reply, .. } = event {
                let _ = reply.send(Ok(request.key.into()).into());
            }
        }
    });
    Gateway::new(events)
}

/// Requests per second of one round.
async fn load(address: SocketAddr, duration: Duration) -> f64 {
    let (stop, answered) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let mut clients = Vec::new();
    let start = Instant::now();
    for _ in 0..CONNECTIONS {
        let (stop, answered) = (stop.clone(), answered.clone());
        clients.push(tokio::spawn(async move {
            let stream = TcpStream::connect(address).await.unwrap();
            stream.set_nodelay(true).unwrap();
            let (mut client, connection) =
                hyper::client::conn::http1::handshake::<_, Empty<Bytes>>(TokioIo::new(stream)).await.unwrap();
            tokio::spawn(connection);
            while !stop.load(Ordering::Relaxed) {
                let request =
                    hyper::Request::get(TARGET).header("host", "127.0.0.1").body(Empty::new()).unwrap();
                let mut answer = client.send_request(request).await.unwrap();
                assert_eq!(answer.status(), 200);
                while !answer.body().is_end_stream() {
                    let body = answer.body_mut();
                    http_body_util::BodyExt::frame(body).await.unwrap().unwrap();
                }
                answered.fetch_add(1, Ordering::Relaxed);
            }
        }));
    }
    tokio::time::sleep(duration).await;
    stop.store(true, Ordering::Relaxed);
    for client in clients {
        client.await.unwrap();
    }
    answered.load(Ordering::Relaxed) as f64 / start.elapsed().as_secs_f64()
}

fn main() {
    let servers = tokio::runtime::Runtime::new().unwrap();
    let clients = tokio::runtime::Runtime::new().unwrap();
    let any = "127.0.0.1:0".parse().unwrap();
    let (bare_address, our_address) = servers.block_on(async {
        let (bare_listener, our_listener) = (listen(any).unwrap(), listen(any).unwrap());
        let addresses = (bare_listener.local_addr().unwrap(), our_listener.local_addr().unwrap());
        tokio::spawn(bare(bare_listener));
        tokio::spawn(serve(
            our_listener,
            echo(),
            Arc::new(HttpConfig::default()),
            Arc::new(Metrics::default()),
            Arc::new(AtomicBool::new(true)),
            CancellationToken::new(),
        ));
        addresses
    });
    clients.block_on(async {
        load(bare_address, WARM_UP).await;
        load(our_address, WARM_UP).await;
        let mut ratios = Vec::new();
        for _ in 0..ROUNDS {
            let (bare, ours) = (load(bare_address, ROUND).await, load(our_address, ROUND).await);
            println!("bare hyper {bare:>9.0}/s   this server {ours:>9.0}/s   {:>5.1} %", 100.0 * ours / bare);
            ratios.push(ours / bare);
        }
        ratios.sort_by(f64::total_cmp);
        println!("median of {ROUNDS} rounds, {CONNECTIONS} connections: {:.1} %", 100.0 * ratios[ROUNDS / 2]);
    });
}
