//! The door of the server over HTTP: a client needs the token, a `Host` that is this machine's, and from a web page an
//! `Origin` that was allowed. Headers are read by a strict grammar: what is not exactly understood is refused.

use std::fmt;
use std::net::Ipv6Addr;

use hyper::header::{AUTHORIZATION, HOST, HeaderMap, HeaderName, ORIGIN};
use hyper::{Request, StatusCode};
use sha2::{Digest as _, Sha256};

/// Names of this machine that are always allowed, as a `Host` and as the host of an `http` origin, with any port.
const LOOPBACK: [&str; 3] = ["localhost", "127.0.0.1", "[::1]"];
/// Longest name of a host, bytes: the most that DNS has.
const NAME: usize = 253;

/// Clients that are let in.
pub struct Door {
    /// Digest of the secret that a client must send as `Authorization: Bearer TOKEN`.
    token: [u8; 32],
    hosts: Vec<Authority>,
    origins: Vec<Origin>,
}

/// Reason why a request is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refused {
    /// Status that says so.
    pub status: StatusCode,
    /// The same in words.
    pub why: &'static str,
}

const NO_TOKEN: Refused = Refused {
    status: StatusCode::UNAUTHORIZED,
    why: "an Authorization header with the server's bearer token is needed",
};
const NO_HOST: Refused = Refused {
    status: StatusCode::BAD_REQUEST,
    why: "one Host header with a name and perhaps a port is needed",
};
const OTHER_HOST: Refused =
    Refused { status: StatusCode::FORBIDDEN, why: "Host is no name of this server; --allow-host adds one" };
const OTHER_ORIGIN: Refused =
    Refused { status: StatusCode::FORBIDDEN, why: "Origin is not allowed to call; --allow-origin adds one" };

/// A name or an origin that a person allowed and that cannot be understood.
#[derive(Debug, PartialEq, Eq)]
pub struct Unreadable(String);

impl fmt::Display for Unreadable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(given) = self;
        write!(f, "{given:?} is neither NAME nor NAME:PORT, or for a web page SCHEME://NAME:PORT")
    }
}

/// Ports that go with a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Port {
    Any,
    Only(u16),
}

/// A host, as it is written but in lower case, and its ports.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Authority {
    host: String,
    port: Port,
}

/// Origin of a web page that may call.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Origin {
    /// Page that has none, such as a file: only where a person allowed it.
    Null,
    Page(String, Authority),
}

impl Door {
    /// Door for those who have `token`, with `hosts` (`NAME[:PORT]`) and `origins` (`SCHEME://NAME[:PORT]`, a port of `*` for
    /// any) beside those of the loopback interface.
    ///
    /// # Errors
    /// When one of them cannot be understood.
    pub fn new(token: &str, hosts: &[String], origins: &[String]) -> Result<Self, Unreadable> {
        let given = |host: &String| allowed_host(host).ok_or_else(|| Unreadable(host.clone()));
        let hosts = hosts.iter().map(given).collect::<Result<_, _>>()?;
        let given = |origin: &String| allowed_origin(origin).ok_or_else(|| Unreadable(origin.clone()));
        let origins = origins.iter().map(given).collect::<Result<_, _>>()?;
        Ok(Self { token: Sha256::digest(token.as_bytes()).into(), hosts, origins })
    }

    /// Whether the request has the token. Digests are compared, so that the time it takes tells nothing of the token.
    pub fn knows<B>(&self, request: &Request<B>) -> Result<(), Refused> {
        let given = only(request.headers(), &AUTHORIZATION).ok_or(NO_TOKEN)?;
        let (scheme, given) = given.and_then(|value| value.split_once(' ')).ok_or(NO_TOKEN)?;
        let fits = scheme.eq_ignore_ascii_case("bearer")
            && Sha256::digest(given.trim().as_bytes()).as_slice() == self.token;
        if fits { Ok(()) } else { Err(NO_TOKEN) }
    }

    /// Whether the request was meant for this server, by a program or by a page that may call.
    pub fn meant<B>(&self, request: &Request<B>) -> Result<(), Refused> {
        let host = only(request.headers(), &HOST).flatten().ok_or(NO_HOST)?;
        // A target with a name of its own is the one that counts, so both must be allowed.
        for host in [Some(host), request.uri().authority().map(|authority| authority.as_str())] {
            let Some(host) = host else { continue };
            let (host, port) = authority(host).ok_or(NO_HOST)?;
            let loopback = LOOPBACK.contains(&host.as_str());
            if !loopback && !self.hosts.iter().any(|allowed| allowed.fits(&host, port)) {
                return Err(OTHER_HOST);
            }
        }
        match only(request.headers(), &ORIGIN).ok_or(OTHER_ORIGIN)? {
            Some(origin) if !self.has(origin) => Err(OTHER_ORIGIN),
            _ => Ok(()),
        }
    }

    fn has(&self, given: &str) -> bool {
        if given == "null" {
            return self.origins.contains(&Origin::Null);
        }
        let Some((scheme, host, port)) = origin(given) else { return false };
        if scheme == "http" && LOOPBACK.contains(&host.as_str()) {
            return true;
        }
        // A default port is left out of an origin.
        let port = port.or_else(|| default_port(&scheme));
        self.origins.iter().any(|allowed| match allowed {
            Origin::Null => false,
            Origin::Page(of, authority) => *of == scheme && authority.fits(&host, port),
        })
    }
}

impl Authority {
    fn fits(&self, host: &str, port: Option<u16>) -> bool {
        self.host == host
            && match self.port {
                Port::Any => true,
                Port::Only(only) => port == Some(only),
            }
    }
}

/// The value of a header: nothing inside where it is missing, nothing at all where there are several or it is no text.
fn only<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<Option<&'a str>> {
    let mut all = headers.get_all(name).iter();
    match (all.next(), all.next()) {
        (None, _) => Some(None),
        (Some(value), None) => Some(Some(value.to_str().ok()?)),
        (Some(_), Some(_)) => None,
    }
}

fn default_port(scheme: &str) -> Option<u16> {
    match scheme {
        "http" => Some(80),
        "https" => Some(443),
        _ => None,
    }
}

/// Host in lower case and port of `NAME` or `NAME:PORT`.
fn authority(given: &str) -> Option<(String, Option<u16>)> {
    let (host, rest) = match given.strip_prefix('[') {
        Some(inner) => {
            let (address, rest) = inner.split_once(']')?;
            address.parse::<Ipv6Addr>().ok()?;
            (given.get(..address.len() + 2)?, rest)
        }
        None => {
            let end = given.find(':').unwrap_or(given.len());
            let (host, rest) = given.split_at(end);
            let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_');
            if host.is_empty() || host.len() > NAME || !host.bytes().all(plain) {
                return None;
            }
            (host, rest)
        }
    };
    let port = match rest {
        "" => None,
        rest => Some(port(rest.strip_prefix(':')?)?),
    };
    Some((host.to_ascii_lowercase(), port))
}

/// A number of a port, and nothing else that [`str::parse`] takes.
fn port(given: &str) -> Option<u16> {
    let digits = (1..=5).contains(&given.len()) && given.bytes().all(|byte| byte.is_ascii_digit());
    if digits { given.parse().ok() } else { None }
}

/// Scheme, host and port of `SCHEME://NAME[:PORT]`, without anything before, after or between them.
fn origin(given: &str) -> Option<(String, String, Option<u16>)> {
    let (scheme, rest) = given.split_once("://")?;
    let mut letters = scheme.bytes();
    let begins = letters.next().is_some_and(|byte| byte.is_ascii_alphabetic());
    if !begins || !letters.all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'-' | b'.')) {
        return None;
    }
    let (host, port) = authority(rest)?;
    Some((scheme.to_ascii_lowercase(), host, port))
}

/// Entry of a person's list of hosts: without a port it means any, and an address may lack its brackets.
fn allowed_host(given: &str) -> Option<Authority> {
    let given = given.trim();
    let bare = given.parse::<Ipv6Addr>().ok().map(|_| format!("[{given}]"));
    let (host, port) = authority(bare.as_deref().unwrap_or(given))?;
    Some(Authority { host, port: port.map_or(Port::Any, Port::Only) })
}

/// Entry of a person's list of origins: without a port it means its scheme's own, and any for a scheme that has none.
fn allowed_origin(given: &str) -> Option<Origin> {
    let given = given.trim();
    if given == "null" {
        return Some(Origin::Null);
    }
    if let Some(given) = given.strip_suffix(":*") {
        let (scheme, host, None) = origin(given)? else { return None };
        return Some(Origin::Page(scheme, Authority { host, port: Port::Any }));
    }
    let (scheme, host, port) = origin(given)?;
    let port = port.or_else(|| default_port(&scheme)).map_or(Port::Any, Port::Only);
    Some(Origin::Page(scheme, Authority { host, port }))
}

#[cfg(test)]
mod tests;
