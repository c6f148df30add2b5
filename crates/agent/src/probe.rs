//! Whether a service is ready: asked where it runs, on the guest's own loopback or in its own files.
//!
//! The answering program is a stranger: it is read within bounds and within [`PROBE_MS`], and only its status counts.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use pyro_proto::message::{Failure, FailureKind, PROBE_MS, ProbeResult};
use tokio::net::TcpStream;

use crate::failure::refusal;

/// Longest address, bytes.
const MAX_URL: usize = 2048;
/// Bytes of an answer that are read: `HTTP/1.1 200`, and no more.
const STATUS: usize = 12;

fn bad(why: impl Into<String>) -> Failure {
    refusal(FailureKind::BadRequest, "probe", why)
}

fn addresses(port: u16) -> [SocketAddr; 2] {
    [(Ipv4Addr::LOCALHOST, port).into(), (Ipv6Addr::LOCALHOST, port).into()]
}

/// Whether something listens on `port`.
pub async fn tcp(port: u16) -> Result<ProbeResult, Failure> {
    if port == 0 {
        return Err(bad("0 is no port"));
    }
    Ok(within(async { dial(&addresses(port)).await.map(drop) }).await)
}

/// Whether `url` answers well.
pub async fn http(url: &str) -> Result<ProbeResult, Failure> {
    let Url { hosts, authority, path } = parse(url)?;
    Ok(within(async {
        let stream = dial(&hosts).await?;
        let request = format!(
            "GET {path} HTTP/1.1\r\nHost: {authority}\r\nUser-Agent: pyro\r\nAccept: */*\r\nConnection: close\r\n\r\n"
        );
        let mut left = request.as_bytes();
        while !left.is_empty() {
            stream.writable().await.map_err(|error| error.to_string())?;
            match stream.try_write(left) {
                Ok(n) => left = &left[n..],
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error.to_string()),
            }
        }
        let (mut head, mut have) = ([0; STATUS], 0);
        while have < STATUS {
            stream.readable().await.map_err(|error| error.to_string())?;
            match stream.try_read(&mut head[have..]) {
                Ok(0) => break,
                Ok(n) => have += n,
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error.to_string()),
            }
        }
        status(&head[..have])
    })
    .await)
}

async fn within(asked: impl Future<Output = Result<(), String>>) -> ProbeResult {
    match tokio::time::timeout(Duration::from_millis(PROBE_MS), asked).await {
        Ok(Ok(())) => ProbeResult::Ready,
        Ok(Err(why)) => ProbeResult::NotReady(why),
        Err(_) => ProbeResult::NotReady(format!("no answer within {PROBE_MS} ms")),
    }
}

/// Connects to the first of `hosts` that answers.
async fn dial(hosts: &[SocketAddr]) -> Result<TcpStream, String> {
    let mut first = None;
    for host in hosts {
        match TcpStream::connect(host).await {
            Ok(stream) => return Ok(stream),
            Err(error) => drop(first.get_or_insert_with(|| format!("{host}: {error}"))),
        }
    }
    Err(first.unwrap_or_default())
}

fn status(head: &[u8]) -> Result<(), String> {
    let code = head
        .strip_prefix(b"HTTP/1.")
        .and_then(|rest| rest.get(1..))
        .and_then(|rest| rest.strip_prefix(b" "))
        .and_then(|code| std::str::from_utf8(code).ok())
        .and_then(|code| code.parse::<u16>().ok());
    match code {
        Some(200..=399) => Ok(()),
        Some(code) => Err(format!("it answers with status {code}")),
        None => Err("what answers does not speak HTTP/1".to_owned()),
    }
}

#[derive(Debug, PartialEq, Eq)]
struct Url<'a> {
    hosts: Vec<SocketAddr>,
    authority: &'a str,
    path: &'a str,
}

/// `http://`, one of the loopback's names, maybe a port, a path. Nothing in it may end a line.
fn parse(url: &str) -> Result<Url<'_>, Failure> {
    if url.len() > MAX_URL || url.bytes().any(|byte| byte <= b' ' || byte >= 0x7f) {
        return Err(bad("the address is too long, or has characters that no address has"));
    }
    let rest =
        url.strip_prefix("http://").ok_or_else(|| bad(format!("{url} does not begin with http://")))?;
    let rest = rest.split_once('#').map_or(rest, |(rest, _)| rest);
    let end = rest.find(['/', '?']).unwrap_or(rest.len());
    let (authority, path) = rest.split_at(end);
    let (host, port) = match authority.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => {
            let port = port.parse().ok().filter(|port| *port != 0);
            (host, port.ok_or_else(|| bad(format!("{url} has no valid port")))?)
        }
        _ => (authority, 80),
    };
    let [v4, v6] = addresses(port);
    let hosts = match host {
        "localhost" => vec![v4, v6],
        "127.0.0.1" => vec![v4],
        "[::1]" => vec![v6],
        _ => return Err(bad(format!("{url} is not on the guest's loopback: localhost, 127.0.0.1 or [::1]"))),
    };
    match path {
        "" => Ok(Url { hosts, authority, path: "/" }),
        _ if path.starts_with('/') => Ok(Url { hosts, authority, path }),
        _ => Err(bad(format!("{url} has no path before its question mark"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_the_loopbacks() {
        let parsed = parse("http://localhost:8080/a?b=c#d").unwrap();
        assert_eq!((parsed.authority, parsed.path), ("localhost:8080", "/a?b=c"));
        assert_eq!(parsed.hosts, addresses(8080));
        assert_eq!(parse("http://127.0.0.1").unwrap().hosts, [addresses(80)[0]]);
        assert_eq!(parse("http://[::1]:81/").unwrap().hosts, [addresses(81)[1]]);
        assert_eq!(parse("http://[::1]").unwrap().hosts, [addresses(80)[1]]);
        for nonsense in [
            "https://localhost/",
            "localhost",
            "http://",
            "http://example.org/",
            "http://localhost:0/",
            "http://localhost:65536/",
            "http://localhost:x/",
            "http://a@localhost/",
            "http://localhost/\r\nX: y",
            "http://localhost/ b",
            "http://127.0.0.1.evil.org/",
            "http://localhost?x",
        ] {
            assert_eq!(parse(nonsense).unwrap_err().kind, FailureKind::BadRequest, "{nonsense:?}");
        }
        assert!(parse(&format!("http://localhost/{}", "x".repeat(MAX_URL))).is_err());
    }

    #[test]
    fn only_good_answers_are_ready() {
        for good in ["HTTP/1.1 200", "HTTP/1.0 204", "HTTP/1.1 399"] {
            assert!(status(good.as_bytes()).is_ok(), "{good}");
        }
        for other in
            ["HTTP/1.1 404", "HTTP/1.1 500", "HTTP/1.1 199", "HTTP/1.1 2", "", "SSH-2.0-Open", "HTTP/2.0 200"]
        {
            assert!(status(other.as_bytes()).is_err(), "{other}");
        }
    }
}
