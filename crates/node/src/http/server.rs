//! Listens, and carries requests to whoever answers them: the router, or the proxy before the ports of sandboxes.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::response::Response;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use moat_model::ErrorKind;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::ServiceExt;

use super::auth::Peer;
use super::{App, Services, bounds, routes};
use crate::error::{Error, Result};

/// A client that has not sent the head of its request by then is gone; also how long an idle connection is kept.
const HEAD_MAX: Duration = Duration::from_secs(10);
/// Largest head of a request, and what is read ahead of its body.
pub(super) const HEAD_BYTES_MAX: usize = 64 << 10;
/// Most headers.
pub(super) const HEADERS_MAX: usize = 100;
/// How long requests under way may take once the server ends.
const FINISH_MAX: Duration = Duration::from_secs(5);
/// A listener that fails (no descriptors left, usually) is asked again after this.
const PAUSE: Duration = Duration::from_millis(50);

/// The running server.
#[derive(Debug)]
pub struct HttpServer {
    /// Where it listens.
    pub addresses: Vec<SocketAddr>,
    closing: CancellationToken,
    tasks: TaskTracker,
    sockets: TaskTracker,
}

/// One connection's place among all. A WebSocket holds it beyond the end of HTTP.
#[derive(Debug, Clone)]
pub(super) struct Place {
    _permit: Arc<OwnedSemaphorePermit>,
}

/// Serves the API at these addresses. One that other machines reach is refused as long as there is no key.
pub async fn serve(addresses: &[SocketAddr], services: Services) -> Result<HttpServer> {
    let open = services.keys.is_empty()?;
    if let Some(address) = addresses.iter().find(|address| open && !address.ip().is_loopback()) {
        let why = "other machines could use it, and there is no API key: make one with `moat api-key create`, or listen \
                   on 127.0.0.1";
        return Err(Error::new(ErrorKind::Denied, format!("api.listen_addr: {address}: {why}")));
    }
    let (closing, sockets) = (CancellationToken::new(), TaskTracker::new());
    let app = App {
        services,
        slots: Arc::new(Semaphore::new(bounds::REQUESTS_MAX)),
        closing: closing.clone(),
        sockets: sockets.clone(),
    };
    let router = routes::router(app);
    listen("api.listen_addr", addresses, bounds::CONNECTIONS_MAX, router, closing, sockets).await
}

/// Whoever answers the requests of a server.
pub(super) trait Answers: Clone + Send + Sync + 'static {
    /// Answers one.
    fn answer(
        self,
        request: hyper::Request<Incoming>,
        peer: SocketAddr,
        place: Place,
    ) -> impl Future<Output = Response<Body>> + Send;
}

impl Answers for Router {
    async fn answer(self, request: hyper::Request<Incoming>, peer: SocketAddr, place: Place) -> Response<Body> {
        let mut request = request.map(Body::new);
        request.extensions_mut().insert(Peer(peer));
        request.extensions_mut().insert(place);
        self.oneshot(request).await.unwrap_or_else(|never: Infallible| match never {})
    }
}

/// Listens at these addresses, which the configuration calls `key`. All together take so many connections at once.
pub(super) async fn listen(
    key: &str,
    addresses: &[SocketAddr],
    connections_max: usize,
    answers: impl Answers,
    closing: CancellationToken,
    sockets: TaskTracker,
) -> Result<HttpServer> {
    let places = Arc::new(Semaphore::new(connections_max));
    let mut bound = Vec::new();
    for address in addresses {
        let failed = |error| Error::caused_by(ErrorKind::Unavailable, format!("{key}: {address}"), error);
        let listener = TcpListener::bind(address).await.map_err(failed)?;
        bound.push((listener.local_addr().map_err(failed)?, listener));
    }
    let mut server = HttpServer { addresses: Vec::new(), closing, tasks: TaskTracker::new(), sockets };
    for (address, listener) in bound {
        server.addresses.push(address);
        let acceptor = Acceptor {
            answers: answers.clone(),
            places: Arc::clone(&places),
            closing: server.closing.clone(),
            tasks: server.tasks.clone(),
        };
        server.tasks.spawn(acceptor.run(listener));
    }
    Ok(server)
}

impl HttpServer {
    /// What ends with the server, and is waited for.
    pub(super) fn tasks(&self) -> &TaskTracker {
        &self.tasks
    }

    /// Takes no more requests, ends the streams, and waits, bounded, for the rest.
    pub async fn close(self) {
        self.closing.cancel();
        self.tasks.close();
        self.sockets.close();
        tokio::join!(self.tasks.wait(), self.sockets.wait());
    }
}

impl Drop for HttpServer {
    fn drop(&mut self) {
        self.closing.cancel();
    }
}

struct Acceptor<A> {
    answers: A,
    places: Arc<Semaphore>,
    closing: CancellationToken,
    tasks: TaskTracker,
}

impl<A: Answers> Acceptor<A> {
    async fn run(self, listener: TcpListener) {
        let closing = self.closing.clone();
        closing.run_until_cancelled(self.accept(listener)).await;
    }

    async fn accept(&self, listener: TcpListener) {
        loop {
            let Ok(place) = Arc::clone(&self.places).acquire_owned().await else { return };
            match listener.accept().await {
                Ok((stream, peer)) => {
                    let place = Place { _permit: Arc::new(place) };
                    self.tasks.spawn(connection(stream, peer, self.answers.clone(), self.closing.clone(), place));
                }
                Err(error) => {
                    tracing::warn!(%error, "accept a connection");
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    }
}

async fn connection(
    stream: TcpStream,
    peer: SocketAddr,
    answers: impl Answers,
    closing: CancellationToken,
    place: Place,
) {
    // Without it a reply in two segments waits for the acknowledgement of the first.
    if let Err(error) = stream.set_nodelay(true).and_then(|()| keep_alive(&stream)) {
        tracing::debug!(%error, "set the options of a connection");
    }
    let service = hyper::service::service_fn(move |request: hyper::Request<Incoming>| {
        let (answers, place) = (answers.clone(), place.clone());
        async move { Ok::<_, Infallible>(answers.answer(request, peer, place).await) }
    });
    let mut builder = http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_MAX)
        .max_headers(HEADERS_MAX)
        .max_header_size(HEAD_BYTES_MAX)
        .max_buf_size(HEAD_BYTES_MAX);
    let mut connection = std::pin::pin!(builder.serve_connection(TokioIo::new(stream), service).with_upgrades());
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = closing.cancelled() => {
            connection.as_mut().graceful_shutdown();
            match tokio::time::timeout(FINISH_MAX, connection).await {
                Ok(ended) => ended,
                Err(_) => return,
            }
        }
    };
    if let Err(error) = ended {
        tracing::trace!(%error, %peer, "a connection ended badly");
    }
}

/// A machine that vanished is noticed although nothing is sent to it.
fn keep_alive(stream: &TcpStream) -> std::io::Result<()> {
    use rustix::net::sockopt;
    sockopt::set_socket_keepalive(stream, true)?;
    sockopt::set_tcp_keepidle(stream, Duration::from_secs(60))?;
    sockopt::set_tcp_keepintvl(stream, Duration::from_secs(15))?;
    sockopt::set_tcp_keepcnt(stream, 4)?;
    Ok(())
}
