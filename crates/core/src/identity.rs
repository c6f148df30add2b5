//! Fresh randomness and what is made of it: identifiers, nonces, and the identity that a guest takes on.

use std::time::{SystemTime, UNIX_EPOCH};

use pyro_proto::message::GuestIdentity;
use rustix::rand::{GetRandomFlags, getrandom};

/// The kernel would not give random bytes. It is not recoverable: without them twins would share keys.
#[derive(Debug, thiserror::Error)]
#[error("the host kernel gives no random bytes")]
pub struct NoRandomness(#[source] std::io::Error);

/// `N` fresh random bytes from the kernel.
pub fn random<const N: usize>() -> Result<[u8; N], NoRandomness> {
    let mut out = [0; N];
    let mut have = 0;
    while have < N {
        match getrandom(&mut out[have..], GetRandomFlags::empty()) {
            Ok(n) => have += n,
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(NoRandomness(error.into())),
        }
    }
    Ok(out)
}

/// A new identifier: 12 lower-case hexadecimal digits.
pub fn new_id() -> Result<String, NoRandomness> {
    Ok(random::<6>()?.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// The identity for a guest that has just started: this moment's time, fresh entropy, a machine id of its own. With
/// `oneshot` it ends with the session.
/// Take it right before it is sent: the time in it ages.
pub fn fresh(hostname: String, oneshot: bool) -> Result<GuestIdentity, NoRandomness> {
    Ok(GuestIdentity {
        entropy: random()?,
        machine_id: random()?,
        hostname,
        generation: random()?,
        // Templates never read theirs, so each guest's kernel makes one.
        boot_id: None,
        oneshot,
        unix_time_ns: unix_now_ns(),
    })
}

/// Now, in nanoseconds since 1970 UTC.
pub fn unix_now_ns() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or_default()
}

/// Now, in Unix seconds, as payloads carry it.
pub fn unix_now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}

/// Now, in whole seconds since 1970 UTC, as manifests carry it.
pub fn unix_seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

#[cfg(test)]
mod tests {
    #[test]
    fn identifiers_are_twelve_hex_digits_and_differ() {
        let (a, b) = (super::new_id().unwrap(), super::new_id().unwrap());
        assert_ne!(a, b);
        assert!(a.len() == 12 && a.bytes().all(|c| c.is_ascii_digit() || (b'a'..=b'f').contains(&c)), "{a}");
    }
}
