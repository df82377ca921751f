//! Connections, each with its limits: how many at once, how long a request may take to arrive and to be answered, how large its head may be.

use super::{ASK_AGAIN, Problem};
use axum::{
    Router,
    extract::Request,
    middleware::Next,
    response::{IntoResponse, Response},
};
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use rustix::net::sockopt::set_tcp_user_timeout;
use std::{future::poll_fn, sync::Arc, time::Duration};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    task::JoinSet,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;

/// Connections at once, and so requests: each costs a descriptor and the buffer of its head. More wait to be accepted.
const CONNECTIONS: usize = 128;
/// A request has to arrive within this time, the first on its connection and each after it.
const HEAD_TIME: Duration = Duration::from_secs(10);
/// The most bytes of a request's head.
const HEAD_BYTES: usize = 16 * 1024;
/// The most header fields.
const HEADERS: usize = 64;
/// An answer has to begin within this time.
const ANSWER: Duration = Duration::from_secs(10);
/// A client that takes nothing of its answer for this long is gone.
const TAKES_NOTHING: Duration = Duration::from_secs(30);
/// A client that was refused may still be sending. What comes is read and thrown away for this long, and so many bytes of it at most: closed at once, the connection would
/// be reset, and the answer lost with it.
const LINGER: (Duration, u64) = (Duration::from_secs(2), 64 << 20);
/// What is being answered gets this long to end when the process does.
const WIND_DOWN: Duration = Duration::from_secs(1);
/// After the system had no descriptor for a connection.
const PAUSE: Duration = Duration::from_millis(100);

/// Serves until `stop`, then lets what is being answered end.
pub(super) async fn serve(listener: TcpListener, router: Router, stop: CancellationToken) {
    let (places, mut connections) = (Arc::new(Semaphore::new(CONNECTIONS)), JoinSet::new());
    loop {
        let accepted = async {
            let place = Arc::clone(&places).acquire_owned().await;
            (place, listener.accept().await)
        };
        let (place, stream) = tokio::select! {
            () = stop.cancelled() => break,
            Some(_) = connections.join_next(), if !connections.is_empty() => continue,
            (place, accepted) = accepted => match accepted {
                Ok((stream, _)) => (place, stream),
                Err(error) => {
                    tracing::debug!(%error, "a connection could not be accepted");
                    sleep(PAUSE).await;
                    continue;
                }
            },
        };
        let (router, stop) = (router.clone(), stop.clone());
        connections.spawn(async move {
            let _place = place;
            connection(stream, router, stop).await;
        });
    }
    let _ = timeout(WIND_DOWN, async { while connections.join_next().await.is_some() {} }).await;
}

async fn connection(stream: TcpStream, router: Router, stop: CancellationToken) {
    let limit = u32::try_from(TAKES_NOTHING.as_millis()).unwrap_or(u32::MAX);
    // Where the system cannot, such a client costs its place.
    let _ = set_tcp_user_timeout(&stream, limit);
    let _ = stream.set_nodelay(true);
    let mut builder = http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIME)
        .max_buf_size(HEAD_BYTES)
        .max_headers(HEADERS);
    let mut served = builder.serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    let ended = tokio::select! {
        ended = poll_fn(|context| served.poll_without_shutdown(context)) => ended,
        () = stop.cancelled() => {
            std::pin::Pin::new(&mut served).graceful_shutdown();
            poll_fn(|context| served.poll_without_shutdown(context)).await
        }
    };
    // A head that was refused is an error here, and has been answered all the same.
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection ended early");
    }
    linger(served.into_parts().io.into_inner()).await;
}

/// Ends a connection so that the client gets to read what it was answered.
async fn linger(mut stream: TcpStream) {
    let (time, most) = LINGER;
    if stream.shutdown().await.is_ok() {
        let (mut rest, mut nowhere) = (stream.take(most), tokio::io::sink());
        let _ = timeout(time, tokio::io::copy(&mut rest, &mut nowhere)).await;
    }
}

/// For routes whose answer has to begin soon.
pub(super) async fn in_time(request: Request, next: Next) -> Response {
    timeout(ANSWER, next.run(request)).await.unwrap_or_else(|_| {
        let detail = format!("there was no answer within {} s", ANSWER.as_secs());
        Problem::passing(detail, ASK_AGAIN).into_response()
    })
}
