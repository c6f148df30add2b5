//! Whatever secrets and output are, and however output is cut: the same comes out, and no secret.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pyro_formats::redact::{MARK, Redactor, SHORTEST};
use pyro_fuzz::Input;

fuzz_target!(|bytes: &[u8]| {
    let mut input = Input::new(bytes);
    let count = input.byte() % 4;
    let values: Vec<String> =
        (0..count).map(|_| String::from_utf8_lossy(input.text()).into_owned()).collect();
    let cuts: Vec<usize> = input.text().iter().map(|size| usize::from(*size)).collect();
    let text = input.rest();

    let Ok(redactor) = Redactor::new(values.iter().map(String::as_str)) else { return };
    let clean = redactor.bytes(text);

    let (mut stream, mut pieces, mut rest) = (redactor.stream(), Vec::new(), text);
    for cut in cuts {
        let (piece, after) = rest.split_at(cut.min(rest.len()));
        stream.push(piece, &mut pieces);
        assert!(stream_is_ahead(&clean, &pieces));
        rest = after;
    }
    stream.push(rest, &mut pieces);
    stream.finish(&mut pieces);
    assert_eq!(String::from_utf8_lossy(&pieces), String::from_utf8_lossy(&clean));
    assert_eq!(redactor.head(text, text.len()).0, clean);

    let half = text.len() / 2;
    let seen = text.len().min(half + redactor.reach());
    let (head, _) = redactor.head(&text[..seen], half);
    for value in &values {
        let value = value.trim_matches(|c: char| c.is_ascii_whitespace());
        // What stands for a value may look like another one.
        if value.len() < SHORTEST || value.contains(['[', ']']) || MARK.contains(value) {
            continue;
        }
        for shown in [&clean[..], &head[..]] {
            for form in [value.to_owned(), value.replace('\n', "\r\n")] {
                assert!(!shown.windows(form.len()).any(|window| window == form.as_bytes()), "{form:?}");
            }
        }
    }
});

/// Whether `pieces` is how `clean` begins.
fn stream_is_ahead(clean: &[u8], pieces: &[u8]) -> bool {
    clean.starts_with(pieces)
}
