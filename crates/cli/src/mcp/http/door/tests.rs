//! The door against each trick with a header that is known of, and against any tail of a good name.

use super::*;

fn door() -> Door {
    let hosts = ["pyro.test", "ported.test:8080", "2001:db8::1", "[2001:db8::2]:80"].map(str::to_owned);
    let origins =
        ["https://ok.test", "https://any.test:*", "http://ported.test:3000", "app://x"].map(str::to_owned);
    Door::new("0123456789abcdef", &hosts, &origins).unwrap()
}

fn request(headers: &[(&str, &str)]) -> Request<()> {
    let request =
        headers.iter().fold(Request::builder(), |request, (name, value)| request.header(*name, *value));
    request.body(()).unwrap()
}

fn host(given: &str) -> bool {
    door().meant(&request(&[("host", given)])).is_ok()
}

fn page(given: &str) -> bool {
    door().meant(&request(&[("host", "localhost"), ("origin", given)])).is_ok()
}

#[test]
fn the_token_is_needed_whole_and_once() {
    let door = door();
    for (value, fits) in [
        ("Bearer 0123456789abcdef", true),
        ("bearer 0123456789abcdef", true),
        ("Bearer 0123456789abcde", false),
        ("Bearer 0123456789abcdef0", false),
        ("Bearer ", false),
        ("Basic 0123456789abcdef", false),
        ("0123456789abcdef", false),
        ("", false),
    ] {
        assert_eq!(door.knows(&request(&[("authorization", value)])).is_ok(), fits, "{value}");
    }
    let good = ("authorization", "Bearer 0123456789abcdef");
    assert!(door.knows(&request(&[])).is_err() && door.knows(&request(&[good, good])).is_err());
}

#[test]
fn only_names_of_this_machine_are_a_host() {
    for good in [
        "localhost",
        "LocalHost",
        "localhost:0",
        "localhost:80",
        "127.0.0.1",
        "127.0.0.1:65535",
        "[::1]",
        "[::1]:8716",
        "pyro.test",
        "PYRO.test:1",
        "ported.test:8080",
        "[2001:db8::1]",
        "[2001:db8::1]:5",
        "[2001:DB8::2]:80",
    ] {
        assert!(host(good), "{good}");
    }
    for bad in [
        "",
        ":",
        ":80",
        "evil.test",
        "localhost.",
        "localhost.evil.test",
        "localhost:80.evil.com",
        "localhost:80:80",
        "localhost:",
        "localhost:+80",
        "localhost:-1",
        "localhost:65536",
        "localhost:000080",
        "localhost:8o",
        "localhost:80/",
        "localhost/",
        "localhost ",
        " localhost",
        "localhost#",
        "localhost?",
        "localhost\\",
        "localhost@evil.test",
        "evil.test@localhost",
        "evil@localhost:80",
        "user:80@localhost",
        "localhost:80@evil.test",
        "127.0.0.1.evil.test",
        "127.0.0.2",
        "127.1",
        "0x7f.0.0.1",
        "2130706433",
        "0.0.0.0",
        "localhost%00",
        "local%68ost",
        "::1",
        "[::1",
        "::1]",
        "[::1]]",
        "[[::1]]",
        "[::1]80",
        "[::1]:",
        "[::1]:80.evil.com",
        "[::1].evil.com",
        "[::1%25lo]",
        "[::ffff:127.0.0.1]",
        "[0:0:0:0:0:0:0:1]",
        "[localhost]",
        "[]",
        "localhost,evil.test",
        "ported.test",
        "ported.test:80",
        "[2001:db8::2]",
        "[2001:db8::2]:81",
        "http://localhost",
    ] {
        assert!(!host(bad), "{bad}");
    }
    let both = request(&[("host", "localhost"), ("host", "localhost")]);
    assert_eq!(door().meant(&both), Err(NO_HOST));
    assert_eq!(door().meant(&request(&[])), Err(NO_HOST));
    // A target that names another host than the header does.
    for (target, fits) in [("http://evil.test/mcp", false), ("http://localhost:80/mcp", true), ("/mcp", true)]
    {
        let request = Request::builder().uri(target).header("host", "localhost").body(()).unwrap();
        assert_eq!(door().meant(&request).is_ok(), fits, "{target}");
    }
}

#[test]
fn only_allowed_pages_call() {
    for good in [
        "http://localhost",
        "http://localhost:3000",
        "HTTP://LOCALHOST:80",
        "http://127.0.0.1:65535",
        "http://[::1]:5",
        "https://ok.test",
        "https://ok.test:443",
        "https://any.test",
        "https://any.test:5",
        "http://ported.test:3000",
        "app://x",
        "app://x:7",
    ] {
        assert!(page(good), "{good}");
    }
    for bad in [
        "",
        "null",
        "NULL",
        "localhost",
        "//localhost",
        "://localhost",
        "http:/localhost",
        "http:localhost",
        "http://",
        "http://:80",
        "http://localhost:80.evil.com",
        "http://localhost:",
        "http://localhost:65536",
        "http://localhost:+80",
        "http://localhost.evil.test",
        "http://localhost:80@evil.test",
        "http://localhost@evil.test",
        "http://evil.test@localhost",
        "http://evil.test:80@localhost:80",
        "http://localhost/",
        "http://localhost/x",
        "http://localhost?x",
        "http://localhost#x",
        "http://localhost\\.evil.test",
        "http://localhost%2eevil.test",
        "http://localhost:80 ",
        " http://localhost",
        "http://localhost http://evil.test",
        "http://localhost,http://evil.test",
        "http://evil.test http://localhost",
        "https://localhost",
        "ws://localhost",
        "file://localhost",
        "file://",
        "http://127.0.0.1.evil.test",
        "http://127.0.0.1:80.evil.test",
        "http://[::1]evil.test",
        "http://[::1].evil.test",
        "http://[::1]:80.evil.test",
        "http://[::1]@evil.test",
        "http://[::1",
        "http://evil.test",
        "http://ok.test",
        "https://ok.test:444",
        "https://ok.test:443.evil.test",
        "https://sub.ok.test",
        "https://ok.test.evil.test",
        "http://any.test",
        "http://ported.test",
        "http://ported.test:80",
        "xapp://x",
        "app://y",
        "1http://localhost",
        "ht tp://localhost",
        "http://localhost:３０００",
    ] {
        let request = Request::builder().header("host", "localhost");
        let Ok(request) = request.header("origin", bad.as_bytes()).body(()) else { continue };
        assert_eq!(door().meant(&request), Err(OTHER_ORIGIN), "{bad}");
    }
    // Another origin beside one that may call.
    let two =
        request(&[("host", "localhost"), ("origin", "http://localhost"), ("origin", "http://evil.test")]);
    assert_eq!(door().meant(&two), Err(OTHER_ORIGIN));
    assert!(Door::new("t", &[], &["null".into()]).unwrap().has("null"));
}

#[test]
fn what_is_allowed_is_understood_or_refused() {
    for bad in ["", "a b", "http://x", "x:", "x:99999", "x/y", "*", "u@x", "[x]"] {
        assert!(Door::new("t", &[bad.into()], &[]).is_err(), "{bad}");
    }
    for bad in ["", "x.test", "https://", "https://x/", "https://x:80:*", "https://*.x", "https://u@x", "*"] {
        assert!(Door::new("t", &[], &[bad.into()]).is_err(), "{bad}");
    }
}

/// Whatever stands after a good host, it is that host only if a port is all that stands there.
#[test]
fn nothing_but_a_port_goes_with_a_host() {
    use proptest::prelude::*;
    proptest!(|(tail in "[ -~]{1,12}", name in 0..3_usize)| {
        let given = format!("{}{tail}", LOOPBACK[name]);
        let number = tail.strip_prefix(':').filter(|rest| rest.bytes().all(|byte| byte.is_ascii_digit()));
        let number = number.filter(|rest| rest.len() <= 5).and_then(|rest| rest.parse::<u16>().ok());
        prop_assert_eq!(host(given.trim()), number.is_some() || given.trim() == LOOPBACK[name]);
        prop_assert_eq!(door().has(&format!("http://{given}")), number.is_some());
    });
}
