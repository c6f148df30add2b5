//! A bare QEMU: the least that a guest needs to boot, and to be restored, under the `microvm` machine.
//!
//! ```text
//!   cold      spawn -> connect to the port -> "ready" -> "ping" answered
//!   save      stop, x-ignore-shared, migrate to a file; RAM is in its own file already
//!   restore   spawn -> the same file mapped private -> load -> cont -> "ping" answered
//! ```
//!
//! Child processes, sockets, files, JSON, and nothing of pyro's: not its command line, not its QMP client, not its
//! waits. Everything here blocks, looks at `given_up` at least every [`GLANCE`], and ends the processes it started.

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, ErrorKind, Write as _};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::cpu::{IdlePlan, Meter};

/// No step takes nearly as long; a guest that hangs is a failed sample.
const DEADLINE: Duration = Duration::from_secs(60);
/// How long a read waits before it looks whether anybody still wants the answer.
const GLANCE: Duration = Duration::from_millis(50);
/// Sockets that are not there yet are asked for again after so long.
const RETRY: Duration = Duration::from_millis(1);
/// A guest that has answered settles for so long before its memory is looked at.
pub(crate) const SETTLE: Duration = Duration::from_millis(100);

/// Numbers the sockets and files of the processes.
static NEXT: AtomicUsize = AtomicUsize::new(0);

/// What every such QEMU is made from. All paths are absolute.
pub(crate) struct Bare {
    /// A directory of its own, for RAM, saved state and sockets.
    pub(crate) dir: PathBuf,
    /// The QEMU binary.
    pub(crate) binary: PathBuf,
    /// The guest kernel.
    pub(crate) kernel: PathBuf,
    /// An initramfs whose init answers lines.
    pub(crate) initramfs: PathBuf,
    /// Hardware virtualisation, or software emulation.
    pub(crate) kvm: bool,
    /// Guest memory, MiB.
    pub(crate) mem_mib: u32,
    /// The host's time-stamp counter, which a guest under emulation cannot measure on a busy host.
    pub(crate) tsc_khz: u64,
}

impl Bare {
    /// Boots one and ends it: spawn to first answer, ms.
    pub(crate) fn cold(&self, given_up: &AtomicBool) -> Result<f64, String> {
        let ram = format!("ram-{}", NEXT.fetch_add(1, Ordering::Relaxed));
        let booted = self.boot(&ram, given_up);
        let took = booted.as_ref().map(|(_, took)| *took).map_err(Clone::clone);
        drop(booted);
        let _ = fs::remove_file(self.dir.join(&ram));
        took
    }

    /// Boots one, saves it for [`Bare::restore`], and ends it.
    pub(crate) fn save(&self, given_up: &AtomicBool) -> Result<(), String> {
        let (mut qemu, _) = self.boot("ram", given_up)?;
        qemu.order("stop", json!({}))?;
        qemu.ignore_shared_ram()?;
        qemu.order("migrate", json!({"uri": "exec:cat > state"}))?;
        qemu.migrated()
    }

    /// Restores one and ends it: spawn to first answer, ms.
    pub(crate) fn restore(&self, given_up: &AtomicBool) -> Result<f64, String> {
        self.restored(given_up).map(|(_, _, took)| took)
    }

    /// Restores `n` at once: from the first spawn to the last answer, ms.
    pub(crate) fn restore_many(&self, n: usize, given_up: &AtomicBool) -> Result<f64, String> {
        let begin = Instant::now();
        let answered = std::thread::scope(|scope| {
            let one = || self.restored(given_up).map(|_ended| ms(begin));
            let threads: Vec<_> = (0..n).map(|_| scope.spawn(one)).collect();
            let ended = |thread: std::thread::ScopedJoinHandle<'_, _>| {
                thread.join().unwrap_or_else(|_| Err("its thread ended".into()))
            };
            threads.into_iter().map(ended).collect::<Result<Vec<f64>, String>>()
        })?;
        Ok(answered.into_iter().fold(0.0, f64::max))
    }

    /// Restores one and then another, has each run `commands` programs, and looks at their proportional set sizes, MiB:
    /// that of the first while it is alone, and what the second adds to all.
    pub(crate) fn idle_memory(&self, commands: usize, given_up: &AtomicBool) -> Result<(f64, f64), String> {
        let idle = || {
            let (mut qemu, mut port, _) = self.restored(given_up)?;
            for _ in 0..commands {
                qemu.ask(&mut port, "run")?;
            }
            std::thread::sleep(SETTLE);
            Ok::<_, String>((qemu, port))
        };
        let pss = |qemu: &Qemu<'_>| crate::memory::pss_mib(qemu.child.id());
        let (first, _port) = idle()?;
        let alone = pss(&first)?;
        let (second, _port) = idle()?;
        Ok((alone, pss(&first)? + pss(&second)? - alone))
    }

    /// Restores `plan.count` of them, has each run a program, and looks what they take of one core while they wait, percent,
    /// each round of the plan.
    pub(crate) fn idle_cpu(&self, plan: IdlePlan, given_up: &AtomicBool) -> Result<Vec<f64>, String> {
        let mut all = Vec::new();
        for _ in 0..plan.count {
            let (mut qemu, mut port, _) = self.restored(given_up)?;
            qemu.ask(&mut port, "run")?;
            all.push((qemu, port));
        }
        let pids: Vec<_> = all.iter().map(|(qemu, _)| qemu.child.id()).collect();
        let round = || {
            let (meter, begin) = (Meter::begin(&pids)?, Instant::now());
            while begin.elapsed() < plan.each {
                if given_up.load(Ordering::Relaxed) {
                    return Err("nobody waits for it any more".to_owned());
                }
                std::thread::sleep(GLANCE.min(plan.each.saturating_sub(begin.elapsed())));
            }
            meter.percent(&pids)
        };
        (0..plan.rounds).map(|_| round()).collect()
    }

    fn boot<'a>(&self, ram: &str, given_up: &'a AtomicBool) -> Result<(Qemu<'a>, f64), String> {
        let begin = Instant::now();
        let mut qemu = self.spawn(ram, true, given_up)?;
        let mut port = qemu.connect("port")?;
        let greeting = port.line(&mut qemu.child)?;
        if greeting != "ready" {
            return Err(format!("its guest said {greeting:?} instead of ready"));
        }
        qemu.ask(&mut port, "ping")?;
        Ok((qemu, ms(begin)))
    }

    fn restored<'a>(&self, given_up: &'a AtomicBool) -> Result<(Qemu<'a>, Line<'a>, f64), String> {
        let begin = Instant::now();
        let mut qemu = self.spawn("ram", false, given_up)?;
        qemu.ignore_shared_ram()?;
        qemu.order("migrate-incoming", json!({"uri": "exec:cat state"}))?;
        qemu.migrated()?;
        qemu.order("cont", json!({}))?;
        let mut port = qemu.connect("port")?;
        qemu.ask(&mut port, "ping")?;
        Ok((qemu, port, ms(begin)))
    }

    /// Starts one in `dir`, whose files it is told by relative names, so that no character of a path can matter.
    fn spawn<'a>(&self, ram: &str, owns_ram: bool, given_up: &'a AtomicBool) -> Result<Qemu<'a>, String> {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let mem = self.mem_mib;
        let share = if owns_ram { "on" } else { "off" };
        // tb-size bounds the translation cache, which passes 1 GiB otherwise; without -erms the guest copies a byte at
        // a time under TCG; on a busy host it believes its clock only when told to (tsc=reliable); and it leaves the PIT
        // running for nobody. All of it is what anybody who runs guests under TCG finds out.
        let (accelerator, cpu, pit) = if self.kvm {
            ("kvm", "host", "on")
        } else {
            ("tcg,thread=multi,tb-size=64", "max,-erms", "off")
        };
        let mut command = Command::new(&self.binary);
        command.current_dir(&self.dir).args(["-accel", accelerator, "-cpu", cpu, "-m", &mem.to_string()]);
        command.args(["-nodefaults", "-no-user-config", "-display", "none", "-serial", "null", "-object"]);
        command.arg(format!("memory-backend-file,id=ram,size={mem}M,mem-path={ram},share={share}"));
        let machine = format!("microvm,rtc=on,pit={pit},pic=on,isa-serial=off,memory-backend=ram");
        command.args(["-machine", &machine]);
        command.arg("-kernel").arg(&self.kernel).arg("-initrd").arg(&self.initramfs);
        command.args(["-append", &format!("quiet panic=-1 tsc_early_khz={} tsc=reliable", self.tsc_khz)]);
        command.args(["-device", "virtio-serial-device", "-chardev"]);
        command.arg(format!("socket,id=c,path={number}.port,server=on,wait=off"));
        command.args(["-device", "virtserialport,chardev=c,name=floor", "-qmp"]);
        command.arg(format!("unix:{number}.qmp,server=on,wait=off"));
        if !owns_ram {
            command.args(["-incoming", "defer"]);
        }
        let complaints = self.dir.join(format!("{number}.err"));
        let stderr = File::create(&complaints).map_err(|e| format!("{}: {e}", complaints.display()))?;
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(stderr);
        let child = command.spawn().map_err(|error| format!("{}: {error}", self.binary.display()))?;
        Ok(Qemu { child, base: self.dir.join(number.to_string()), qmp: None, given_up })
    }
}

fn ms(begin: Instant) -> f64 {
    begin.elapsed().as_secs_f64() * 1e3
}

/// One process; killed when dropped.
struct Qemu<'a> {
    child: Child,
    /// Its files are this with an extension.
    base: PathBuf,
    qmp: Option<Line<'a>>,
    given_up: &'a AtomicBool,
}

impl<'a> Qemu<'a> {
    /// Connects to one of its sockets, which it is about to make.
    fn connect(&mut self, socket: &str) -> Result<Line<'a>, String> {
        let path = self.base.with_extension(socket);
        let begin = Instant::now();
        loop {
            match UnixStream::connect(&path) {
                Ok(stream) => {
                    stream.set_read_timeout(Some(GLANCE)).map_err(|e| e.to_string())?;
                    return Ok(Line { stream: BufReader::new(stream), given_up: self.given_up });
                }
                Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::ConnectionRefused) => {
                    check(begin, self.given_up)?;
                    if let Ok(Some(status)) = self.child.try_wait() {
                        return Err(format!("QEMU ended ({status}): {}", self.complaints()));
                    }
                    std::thread::sleep(RETRY);
                }
                Err(error) => return Err(format!("{}: {error}", path.display())),
            }
        }
    }

    /// Sends the guest a line, which it must answer with the same.
    fn ask(&mut self, port: &mut Line<'_>, line: &str) -> Result<(), String> {
        port.send(line)?;
        let answer = port.line(&mut self.child)?;
        if answer == line { Ok(()) } else { Err(format!("its guest answered {line:?} with {answer:?}")) }
    }

    /// One QMP command and what it returns.
    fn order(&mut self, command: &str, arguments: Value) -> Result<Value, String> {
        let mut qmp = match self.qmp.take() {
            Some(qmp) => qmp,
            None => {
                let mut qmp = self.connect("qmp")?;
                qmp.line(&mut self.child)?;
                qmp.order(&mut self.child, "qmp_capabilities", json!({}))?;
                qmp
            }
        };
        let answer = qmp.order(&mut self.child, command, arguments);
        self.qmp = Some(qmp);
        answer
    }

    fn ignore_shared_ram(&mut self) -> Result<(), String> {
        let capability = json!({"capability": "x-ignore-shared", "state": true});
        self.order("migrate-set-capabilities", json!({"capabilities": [capability]})).map(drop)
    }

    /// Waits until what was saved or loaded is.
    fn migrated(&mut self) -> Result<(), String> {
        let begin = Instant::now();
        loop {
            let status = self.order("query-migrate", json!({}))?;
            match status["status"].as_str() {
                Some("completed") => return Ok(()),
                Some("failed") => return Err(format!("the state cannot be moved: {status}")),
                _ => {
                    check(begin, self.given_up)?;
                    std::thread::sleep(RETRY);
                }
            }
        }
    }

    fn complaints(&self) -> String {
        let text = fs::read_to_string(self.base.with_extension("err")).unwrap_or_default();
        text.lines().last().unwrap_or("it says nothing").to_owned()
    }
}

impl Drop for Qemu<'_> {
    fn drop(&mut self) {
        // It may have ended by itself; then there is only something to reap.
        let _ = self.child.kill();
        let _ = self.child.wait();
        for extension in ["port", "qmp", "err"] {
            let _ = fs::remove_file(self.base.with_extension(extension));
        }
    }
}

/// A connection that speaks in lines.
struct Line<'a> {
    stream: BufReader<UnixStream>,
    given_up: &'a AtomicBool,
}

impl Line<'_> {
    fn send(&mut self, line: &str) -> Result<(), String> {
        let sent = self.stream.get_mut().write_all(format!("{line}\n").as_bytes());
        sent.map_err(|error| format!("QEMU cannot be talked to: {error}"))
    }

    /// The next line, without its end.
    fn line(&mut self, child: &mut Child) -> Result<String, String> {
        let begin = Instant::now();
        let mut line = Vec::new();
        loop {
            // What came before a timeout stays in `line`.
            match self.stream.read_until(b'\n', &mut line) {
                Ok(_) if line.ends_with(b"\n") => {
                    line.pop();
                    return Ok(String::from_utf8_lossy(&line).into_owned());
                }
                Ok(_) => return Err(format!("QEMU hung up ({:?})", child.try_wait())),
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                    check(begin, self.given_up)?;
                }
                Err(error) => return Err(format!("QEMU cannot be listened to: {error}")),
            }
        }
    }

    fn order(&mut self, child: &mut Child, command: &str, arguments: Value) -> Result<Value, String> {
        self.send(&json!({"execute": command, "arguments": arguments}).to_string())?;
        loop {
            let line = self.line(child)?;
            let mut answer: Value = serde_json::from_str(&line).map_err(|e| format!("{command}: {e}"))?;
            if let Some(error) = answer.get("error") {
                return Err(format!("{command}: {error}"));
            }
            // Anything else is an event.
            if let Some(value) = answer.get_mut("return") {
                return Ok(value.take());
            }
        }
    }
}

fn check(begin: Instant, given_up: &AtomicBool) -> Result<(), String> {
    if given_up.load(Ordering::Relaxed) {
        return Err("nobody waits for it any more".into());
    }
    if begin.elapsed() > DEADLINE {
        return Err(format!("QEMU or its guest is silent for {} s", DEADLINE.as_secs()));
    }
    Ok(())
}
