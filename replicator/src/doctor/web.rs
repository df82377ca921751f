//! One page of the web, as whoever is outside gets it: `http` or `https`, a few redirects, and a bound on everything.

use rustls_native_certs::load_native_certs;
use std::{io, sync::Arc, time::Duration};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
    time::{Instant, timeout_at},
};
use tokio_rustls::{
    TlsConnector,
    rustls::{ClientConfig, RootCertStore, crypto::ring, pki_types::ServerName},
};
use url::{Host, Url};

/// For a page with all its redirects.
const PATIENCE: Duration = Duration::from_secs(10);
/// As many as browsers meet in practice; a loop ends here.
const REDIRECTS: usize = 5;
/// What is read of an answer: a marker is short, and so is what tells one page from another.
const MOST: u64 = 64 << 10;

/// Why a page could not be had.
#[derive(Debug, thiserror::Error)]
pub enum WebError {
    #[error("{0}: no answer within {n} s", n = PATIENCE.as_secs())]
    Slow(Url),
    #[error("{url}")]
    Io { url: Url, source: io::Error },
    #[error("{0}: what answers does not speak HTTP")]
    NoHttp(Url),
    #[error("{0}: more than {REDIRECTS} redirects")]
    Loop(Url),
}

/// An answer that is no redirect.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Page {
    /// Where the redirects led.
    pub url: Url,
    pub status: u16,
    /// Its first 64 KiB, as they came.
    pub body: Vec<u8>,
}

/// Gets one. Anything that is not `http` or `https` is not followed.
pub async fn get(url: &Url) -> Result<Page, WebError> {
    let deadline = Instant::now() + PATIENCE;
    let mut url = url.clone();
    for _ in 0..=REDIRECTS {
        let answer = timeout_at(deadline, ask(&url, deadline)).await;
        let bytes = answer
            .map_err(|_| WebError::Slow(url.clone()))?
            .map_err(|source| WebError::Io { url: url.clone(), source })?;
        let (status, location, body) = parse(&bytes).ok_or_else(|| WebError::NoHttp(url.clone()))?;
        let next = location.filter(|_| matches!(status, 301..=303 | 307 | 308));
        match next.and_then(|next| url.join(&next).ok()).filter(is_web) {
            Some(next) => url = next,
            None => return Ok(Page { url, status, body }),
        }
    }
    Err(WebError::Loop(url))
}

/// Whether it is one that can be got.
pub fn is_web(url: &Url) -> bool {
    matches!(url.scheme(), "http" | "https") && url.host().is_some()
}

async fn ask(url: &Url, deadline: Instant) -> io::Result<Vec<u8>> {
    let host = url.host().ok_or_else(|| io::Error::other("a URL without a host"))?;
    let port = url.port_or_known_default().unwrap_or(80);
    let stream = match &host {
        Host::Domain(name) => TcpStream::connect((*name, port)).await?,
        Host::Ipv4(ip) => TcpStream::connect((*ip, port)).await?,
        Host::Ipv6(ip) => TcpStream::connect((*ip, port)).await?,
    };
    if url.scheme() == "http" {
        return talk(stream, url, &host, deadline).await;
    }
    let name = match &host {
        Host::Domain(name) => ServerName::try_from((*name).to_owned()).map_err(io::Error::other)?,
        Host::Ipv4(ip) => ServerName::from(std::net::IpAddr::from(*ip)),
        Host::Ipv6(ip) => ServerName::from(std::net::IpAddr::from(*ip)),
    };
    let stream = TlsConnector::from(tls()?).connect(name, stream).await?;
    talk(stream, url, &host, deadline).await
}

/// By the system's certificates, as a browser.
fn tls() -> io::Result<Arc<ClientConfig>> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(load_native_certs().certs);
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?;
    Ok(Arc::new(config.with_root_certificates(roots).with_no_client_auth()))
}

async fn talk(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    url: &Url,
    host: &Host<&str>,
    deadline: Instant,
) -> io::Result<Vec<u8>> {
    let target = url.query().map_or_else(|| url.path().to_owned(), |query| format!("{}?{query}", url.path()));
    let port = url.port().map(|port| format!(":{port}")).unwrap_or_default();
    let request = format!(
        "GET {target} HTTP/1.1\r\nHost: {host}{port}\r\nUser-Agent: mediamirror-doctor\r\nAccept: */*\r\nConnection: close\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await?;
    stream.flush().await?;
    let (mut bytes, mut stream) = (Vec::new(), stream.take(MOST));
    // A server may keep the connection, or end it without ado: what came by then is its answer.
    match timeout_at(deadline - PATIENCE / 10, stream.read_to_end(&mut bytes)).await {
        Ok(Err(error)) if bytes.is_empty() => Err(error),
        Err(_) if bytes.is_empty() => Err(io::ErrorKind::TimedOut.into()),
        _ => Ok(bytes),
    }
}

/// Status, `Location`, body.
fn parse(bytes: &[u8]) -> Option<(u16, Option<String>, Vec<u8>)> {
    let end = bytes.windows(4).position(|four| four == b"\r\n\r\n").unwrap_or(bytes.len());
    let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
    let mut lines = head.lines();
    let status = lines.next()?.strip_prefix("HTTP/1.")?.split(' ').nth(1)?.parse().ok()?;
    let field = |line: &str| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("location").then(|| value.trim().to_owned())
    };
    let location = lines.find_map(field);
    Some((status, location, bytes.get(end + 4..).unwrap_or_default().to_vec()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use tokio::net::TcpListener;

    #[test]
    fn an_answer_is_read() {
        let bytes = b"HTTP/1.1 301 Moved\r\nContent-Type: x\r\nlocation:  /there \r\n\r\nbody\r\n\r\nmore";
        assert_eq!(parse(bytes), Some((301, Some("/there".into()), b"body\r\n\r\nmore".to_vec())));
        assert_eq!(parse(b"HTTP/1.0 404 \r\n\r\n"), Some((404, None, Vec::new())));
        for bad in [&b"SSH-2.0-OpenSSH"[..], b"", b"HTTP/1.1 x\r\n\r\n"] {
            assert_eq!(parse(bad), None);
        }
    }

    /// Answers each request with what `answer` makes of its first line.
    async fn serve(answer: impl Fn(&str) -> String + Send + 'static) -> Url {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/a", listener.local_addr().unwrap()).parse().unwrap();
        tokio::spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut bytes = vec![0; 4096];
                let length = stream.read(&mut bytes).await.unwrap();
                let request = String::from_utf8_lossy(&bytes[..length]).into_owned();
                stream.write_all(answer(request.lines().next().unwrap()).as_bytes()).await.unwrap();
            }
        });
        url
    }

    #[tokio::test]
    async fn redirects_are_followed_so_far() {
        let url = serve(|line| match line {
            "GET /a HTTP/1.1" => "HTTP/1.1 301 Moved\r\nLocation: b?c=d\r\n\r\n".into(),
            "GET /b?c=d HTTP/1.1" => "HTTP/1.1 200 OK\r\n\r\nhere".into(),
            _ => "HTTP/1.1 302 Found\r\nLocation: /loop\r\n\r\n".into(),
        })
        .await;
        let page = get(&url).await.unwrap();
        assert_eq!((page.status, page.url.path(), page.body), (200, "/b", b"here".to_vec()));
        let endless = get(&url.join("/loop").unwrap()).await;
        assert!(matches!(endless, Err(WebError::Loop(_))), "{endless:?}");
    }

    #[tokio::test]
    async fn what_does_not_speak_http_is_said() {
        let url = serve(|_| "SSH-2.0-OpenSSH\r\n".into()).await;
        assert!(matches!(get(&url).await, Err(WebError::NoHttp(_))));
        let free = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        let nobody = get(&format!("http://{free}/").parse().unwrap()).await;
        assert!(matches!(nobody, Err(WebError::Io { .. })), "{nobody:?}");
    }
}
