//! Two guests restored from one template are no twins, and neither lives in the template's past.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use pyro_core::backend::Preference;
use pyro_core::start::{Remark, StartDisk, StartMethod};
use pyro_vmm::Shape;

use crate::backends::on_each_backend;
use crate::support::{Host, SHAPE, restored, shell, stop};

on_each_backend! {
    async
    a_restored_clock_is_right_and_stays_so
    two_restored_guests_share_nothing_that_is_a_guests_own
    a_certificate_younger_than_the_template_is_valid
    a_boot_id_that_was_read_can_be_renewed
    a_guest_of_two_processors_and_another_size_has_a_template_of_its_own
}

fn now_ms() -> i128 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as i128
}

const QUESTIONS: [(&str, &str); 10] = [
    ("host name", "uname -n"),
    ("machine id", "cat /etc/machine-id"),
    ("boot id", "cat /proc/sys/kernel/random/boot_id"),
    ("generation", "cat /run/pyro/generation"),
    ("urandom", "head -c 16 /dev/urandom | od -An -tx1"),
    ("uuid", "cat /proc/sys/kernel/random/uuid"),
    ("python secrets", "python3 -c 'import secrets; print(secrets.token_hex())'"),
    ("python random", "python3 -c 'import random; print(random.random())'"),
    ("python uuid", "python3 -c 'import uuid; print(uuid.uuid4())'"),
    ("openssl", "openssl rand -hex 16"),
];

/// Clock to within this, milliseconds.
const CLOCK_MS: i128 = 50;

/// Asks for the time until an answer came quickly: it was read somewhere between asking and answer, and the less lies
/// between, the less can be hidden there.
async fn clock_is_right(guest: &pyro_core::start::Started) {
    let mut best = (i128::MAX, 0, 0);
    for _ in 0..30 {
        let before = now_ms();
        let theirs: i128 = shell(guest, "date +%s%3N").await.trim().parse().unwrap();
        let took = now_ms() - before;
        if took < best.0 {
            best = (took, before, theirs);
        }
    }
    let (took, before, theirs) = best;
    assert!(
        theirs >= before - CLOCK_MS && theirs <= before + took + CLOCK_MS,
        "asked at {before}, answered {theirs} after {took} ms: the guest's clock is wrong"
    );
}

/// The clock is right when the first command runs, and goes on as the host's does.
async fn a_restored_clock_is_right_and_stays_so(backend: Preference) {
    let host = Host::on(backend, crate::support::BASE).await;
    stop(host.start(SHAPE, StartDisk::Blank).await.0).await;
    let guest = restored(&host, SHAPE).await;
    clock_is_right(&guest).await;
    tokio::time::sleep(Duration::from_secs(10)).await;
    clock_is_right(&guest).await;
    stop(guest).await;
}

async fn two_restored_guests_share_nothing_that_is_a_guests_own(backend: Preference) {
    let host = Host::on(backend, "debian:12").await;
    let (first, remarks) = host.start(SHAPE, StartDisk::Blank).await;
    assert_eq!((first.how, remarks), (StartMethod::Booted, vec![Remark::First]));
    let mut answers: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    let (second, third) = (restored(&host, SHAPE).await, restored(&host, SHAPE).await);
    for guest in [&first, &second, &third] {
        // The first command of each, so that nothing has corrected the clock meanwhile.
        let before = now_ms();
        let theirs: i128 = shell(guest, "date +%s%3N").await.trim().parse().unwrap();
        let after = now_ms();
        assert!(
            theirs >= before - CLOCK_MS && theirs <= after + CLOCK_MS,
            "{before} {theirs} {after}: the guest's clock is wrong"
        );
        for (what, question) in QUESTIONS {
            let answer = shell(guest, question).await;
            assert!(answer.trim().len() >= 8, "{what}: {answer:?}");
            answers.entry(what).or_default().push(answer);
        }
    }
    for (what, mut given) in answers {
        given.sort();
        given.dedup();
        assert_eq!(given.len(), 3, "{what} is shared: {given:?}");
    }
    // What the identity says is what programs see, and they can look their own name up.
    for guest in [&first, &second, &third] {
        let own = shell(
            guest,
            "getent hosts \"$(uname -n)\" localhost; echo >> /etc/hosts; sed -i s/x/x/ /etc/hosts",
        )
        .await;
        assert!(own.starts_with("127.0.1.1") && own.contains("localhost"), "{own}");
    }
    let host_name = shell(&second, "cat /etc/machine-id | wc -c; uname -n | cut -c1-5").await;
    assert_eq!(host_name, "33\ntest-\n");
    for guest in [first, second, third] {
        stop(guest).await;
    }
}

/// A certificate that is younger than the template is valid at once in a guest restored from it; a guest whose clock
/// stood at the template's time would say that it is not valid yet.
async fn a_certificate_younger_than_the_template_is_valid(backend: Preference) {
    let host = Host::on(backend, "debian:12").await;
    let (first, _) = host.start(SHAPE, StartDisk::Blank).await;
    let made = shell(&first, "date +%s").await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    let certificate = shell(
        &first,
        "cd /tmp && openssl req -x509 -newkey ed25519 -nodes -keyout k -subj /CN=x -days 1 2>/dev/null",
    )
    .await;
    stop(first).await;
    let guest = restored(&host, SHAPE).await;
    let verify =
        format!("cat > /tmp/c <<'E'\n{certificate}E\nopenssl verify -CAfile /tmp/c /tmp/c 2>&1 || true");
    assert!(shell(&guest, &verify).await.contains("/tmp/c: OK"));
    // The same in a guest that lives in the past, to see that the question is a real one.
    let past = format!("date -s @{} >/dev/null; {verify}", made.trim());
    assert!(shell(&guest, &past).await.contains("not yet valid"));
    stop(guest).await;
}

/// A guest whose kernel has shown its boot id before is given another one, as often as need be.
async fn a_boot_id_that_was_read_can_be_renewed(backend: Preference) {
    let host = Host::on(backend, crate::support::BASE).await;
    let (guest, _) = host.start(SHAPE, StartDisk::Blank).await;
    const READ: &str = "cat /proc/sys/kernel/random/boot_id";
    let mut seen = vec![shell(&guest, READ).await];
    for _ in 0..2 {
        let mut identity = pyro_core::identity::fresh("other".into(), false).unwrap();
        identity.boot_id = Some(pyro_core::identity::random().unwrap());
        guest.booted.guest.identify(identity).await.unwrap();
        seen.push(shell(&guest, READ).await);
    }
    let shape: Vec<usize> = seen[2].trim().split('-').map(str::len).collect();
    assert_eq!(shape, [8, 4, 4, 4, 12], "{seen:?}");
    seen.sort();
    seen.dedup();
    assert_eq!(seen.len(), 3, "{seen:?}");
    let mounted = shell(&guest, "grep -c boot_id /proc/self/mounts").await;
    assert_eq!(mounted.trim(), "1", "they do not pile up");
    stop(guest).await;
}

async fn a_guest_of_two_processors_and_another_size_has_a_template_of_its_own(backend: Preference) {
    let host = Host::on(backend, crate::support::BASE).await;
    let large = Shape { vcpus: 2, mem_mib: 320 };
    for shape in [SHAPE, large] {
        let (guest, remarks) = host.start(shape, StartDisk::Blank).await;
        assert_eq!(remarks, [Remark::First]);
        stop(guest).await;
    }
    for shape in [large, SHAPE, large] {
        let guest = restored(&host, shape).await;
        assert_eq!(shell(&guest, "nproc").await.trim(), shape.vcpus.to_string());
        // Both processors are set to work, and the clock that they share moves on.
        shell(&guest, "for i in 1 2 3; do ls -R /usr >/dev/null & done; wait; sleep 0.2").await;
        stop(guest).await;
    }
    let stored = host.factory.template_store().of_base(&host.environment.manifest().rootfs.sha256);
    assert_eq!(stored.len(), 2);
    assert!(stored.iter().all(|template| template.bytes > 1 << 20 && template.kind == "fresh"), "{stored:?}");
}
