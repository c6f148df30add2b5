//! Values that a guest wrote, which may hold a workspace's secrets.

use std::borrow::Cow;

use crate::redact::Redactor;

/// A value that a guest wrote. It has no `Display`, no `Serialize` and a `Debug` that says nothing: it shows itself only
/// through a [`Redactor`], so that a place that forgets to redact does not compile.
#[derive(Clone, PartialEq, Eq)]
pub struct Untrusted<T>(T);

impl<T> Untrusted<T> {
    /// Marks `value` as written by a guest.
    pub fn new(value: T) -> Self {
        Self(value)
    }

    /// The value as the guest wrote it: to be compared, decided on or handed back to the guest, never to be shown.
    pub fn unredacted(&self) -> &T {
        &self.0
    }

    /// The value as the guest wrote it, by value; for the same uses as [`Self::unredacted`].
    pub fn into_unredacted(self) -> T {
        self.0
    }

    /// Makes what may be shown of the value: `show` is given the value and the redactor.
    pub fn shown<S>(self, redactor: &Redactor, show: impl FnOnce(T, &Redactor) -> S) -> S {
        show(self.0, redactor)
    }
}

impl Untrusted<String> {
    /// The text without the secrets.
    pub fn text(&self, redactor: &Redactor) -> String {
        redactor.text(&self.0)
    }
}

impl Untrusted<Vec<u8>> {
    /// The bytes before `end` without the secrets, and whether there were any; bytes after `end` tell whether a secret
    /// goes on there.
    pub fn head(&self, redactor: &Redactor, end: usize) -> (Cow<'_, [u8]>, bool) {
        redactor.head(&self.0, end)
    }
}

impl<T> std::fmt::Debug for Untrusted<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Untrusted")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_shows_itself_only_without_the_secrets() {
        let redactor = Redactor::new(["hunter22"]).unwrap();
        let text = Untrusted::new("a hunter22 b".to_owned());
        assert_eq!(text.text(&redactor), "a [REDACTED] b");
        assert_eq!(format!("{text:?}"), "Untrusted");
        assert_eq!(text.unredacted(), "a hunter22 b");
        let bytes = Untrusted::new(b"xhunter22".to_vec());
        assert_eq!(bytes.head(&redactor, 9), (Cow::Borrowed(&b"x[REDACTED]"[..]), true));
    }
}
