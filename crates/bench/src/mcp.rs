//! The MCP server as a client has it: a process of `pyro mcp serve` that is told lines and answers lines.

use std::process::Stdio;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

use super::workspace::{Place, TTL};
use super::{Bench, Measure, Row, Series};
use pyro_core::cause;
use pyro_core::command::CommandLine;
use pyro_core::workspace::Workspaces;

const MEASURE: Measure = Measure::Mcp;

/// Nothing here takes more than some seconds.
const DEADLINE: Duration = Duration::from_secs(120);

/// A server, killed with this, and the one client it has.
struct Server {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
    asked: u64,
}

impl Server {
    /// Starts one and asks what it has; how long that took from its start on, ms.
    async fn start(bench: &Bench<'_>) -> Result<(Self, f64), String> {
        let mut command = Command::new(&bench.plan.pyro);
        command.args(["mcp", "serve", "--backend", bench.factory.preference.name()]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).kill_on_drop(true);
        let begin = Instant::now();
        let mut child = command.spawn().map_err(|error| format!("{}: {error}", bench.plan.pyro.display()))?;
        let (Some(input), Some(output)) = (child.stdin.take(), child.stdout.take()) else {
            return Err("it has no standard input or output".into());
        };
        let mut server = Self { child, input, output: BufReader::new(output), asked: 0 };
        let client = json!({"name": "pyro bench", "version": env!("CARGO_PKG_VERSION")});
        let hello = json!({"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": client});
        server.ask("initialize", hello).await?;
        server.write(&json!({"jsonrpc": "2.0", "method": "notifications/initialized"})).await?;
        server.ask("tools/list", json!({})).await?;
        Ok((server, begin.elapsed().as_secs_f64() * 1e3))
    }

    async fn write(&mut self, message: &Value) -> Result<(), String> {
        self.say(&format!("{message}\n")).await
    }

    async fn say(&mut self, line: &str) -> Result<(), String> {
        self.input.write_all(line.as_bytes()).await.map_err(|error| error.to_string())
    }

    async fn hear(&mut self) -> Result<String, String> {
        let mut line = String::new();
        let heard = tokio::time::timeout(DEADLINE, self.output.read_line(&mut line)).await;
        match heard.map_err(|_| format!("no answer within {} s", DEADLINE.as_secs()))? {
            Ok(0) => Err("the server is gone".to_owned()),
            Ok(_) => Ok(line),
            Err(error) => Err(error.to_string()),
        }
    }

    /// What it answers, and how long that took, ms: from the first byte of the question on its way to the last of the answer.
    /// Nothing else is said meanwhile, for want of a progress token.
    async fn ask(&mut self, method: &str, params: Value) -> Result<(Value, f64), String> {
        self.asked += 1;
        let id = self.asked;
        let question = json!({"jsonrpc": "2.0", "id": id, "method": method, "params": params});
        let line = format!("{question}\n");
        let begin = Instant::now();
        self.say(&line).await?;
        let line = self.hear().await?;
        let took = begin.elapsed().as_secs_f64() * 1e3;
        let answer: Value = serde_json::from_str(&line).map_err(|error| error.to_string())?;
        match answer.get("result") {
            Some(result) if answer["id"] == id && result["isError"] != true => Ok((result.clone(), took)),
            _ => Err(format!("{method}: {answer}")),
        }
    }

    /// Calls a tool that runs a command; how long it took, ms.
    async fn call(&mut self, tool: &str, arguments: Value) -> Result<f64, String> {
        let (result, took) = self.ask("tools/call", json!({"name": tool, "arguments": arguments})).await?;
        match result["structuredContent"]["exit_code"].as_i64() {
            Some(0) => Ok(took),
            _ => Err(format!("{tool} failed in the guest: {}", result["structuredContent"]["stderr"])),
        }
    }

    /// Goes, and waits until the server is gone too.
    async fn leave(self) {
        let Self { mut child, input, .. } = self;
        drop(input);
        // One that does not go is killed with its handle.
        let _ = tokio::time::timeout(DEADLINE, child.wait()).await;
    }
}

pub(super) async fn figures(bench: &mut Bench<'_>) -> Vec<Row> {
    let [mut ready, mut nothing] = [const { Series::new() }; 2];
    let mut calls = Calls::default();
    for _ in 0..bench.plan.amount.runs {
        let sample = bench.says_version().await;
        bench.keep(MEASURE, &mut nothing, sample);
        match Server::start(bench).await {
            Ok((server, took)) => {
                server.leave().await;
                bench.keep(MEASURE, &mut ready, Ok(took));
            }
            Err(why) => bench.keep(MEASURE, &mut ready, Err(why)),
        }
    }
    if let Err(why) = calls.take(bench).await {
        bench.keep(MEASURE, &mut calls.exec, Err(why));
    }
    let Calls { exec, guest, exec_after, guest_after, run, by_itself } = calls;
    let part = "the guest's part of the same command without MCP: fork to reaped";
    let environment = &bench.plan.environment;
    vec![
        Row::new("mcp_ready", "ms", "pyro mcp serve, spawn to the answer to tools/list", ready)
            .against("pyro --version, exec to exit", nothing),
        Row::new("mcp_exec", "ms", "workspace_exec of true again and again, call to result", exec)
            .against(part, guest),
        Row::new(
            "mcp_exec_after",
            "ms",
            "workspace_exec of true after another VM ran, call to result",
            exec_after,
        )
        .against(part, guest_after),
        Row::new("mcp_run", "ms", format!("vm_run of true in {environment}, call to result"), run)
            .against(format!("pyro run {environment} -- true, exec to exit"), by_itself),
    ]
}

/// Calls by one server, each in turn with what it is compared with.
#[derive(Default)]
struct Calls {
    exec: Series,
    guest: Series,
    exec_after: Series,
    guest_after: Series,
    run: Series,
    by_itself: Series,
}

impl Calls {
    async fn take(&mut self, bench: &mut Bench<'_>) -> Result<(), String> {
        let (mut server, _) = Server::start(bench).await?;
        let (kept, _) = Place::usual(bench).create(TTL).await?;
        let workspaces = Workspaces::new(bench.factory.clone());
        let in_workspace = json!({"workspace_id": kept.id, "command": "true"});
        let in_vm = json!({"environment": bench.plan.environment, "command": "true"});
        // Of the first of each nothing was translated yet.
        server.call("workspace_exec", in_workspace.clone()).await?;
        guests_part(&workspaces, &kept.id).await?;
        for _ in 0..bench.plan.amount.runs {
            let sample = server.call("workspace_exec", in_workspace.clone()).await;
            bench.keep(MEASURE, &mut self.exec, sample);
            let sample = guests_part(&workspaces, &kept.id).await;
            bench.keep(MEASURE, &mut self.guest, sample);
        }
        server.call("vm_run", in_vm.clone()).await?;
        for _ in 0..bench.plan.amount.runs {
            // A guest that was just used is faster than one that waited while another VM ran: here both have waited.
            let sample = server.call("workspace_exec", in_workspace.clone()).await;
            bench.keep(MEASURE, &mut self.exec_after, sample);
            let sample = server.call("vm_run", in_vm.clone()).await;
            bench.keep(MEASURE, &mut self.run, sample);
            let sample = guests_part(&workspaces, &kept.id).await;
            bench.keep(MEASURE, &mut self.guest_after, sample);
            let sample = bench.run_warm().await;
            bench.keep(MEASURE, &mut self.by_itself, sample);
        }
        drop(kept);
        server.leave().await;
        Ok(())
    }
}

/// What `true` takes in the guest of a workspace, ms, asked for as the command line does it: that shows whole ms.
async fn guests_part(workspaces: &Workspaces, id: &str) -> Result<f64, String> {
    let command = CommandLine::Shell("true".into());
    let (mut out, mut err) = (tokio::io::sink(), tokio::io::sink());
    let ran = workspaces.exec(id, &command, Some(DEADLINE), &[], &mut out, &mut err).await;
    match ran.map_err(|error| cause::chain(&error))? {
        report if report.exit_code == 0 => Ok(report.duration.as_secs_f64() * 1e3),
        report => Err(format!("true failed in the guest: {}", report.stderr)),
    }
}

impl Bench<'_> {
    /// The same executable that does nothing, ms.
    async fn says_version(&self) -> Result<f64, String> {
        let mut command = Command::new(&self.plan.pyro);
        command.arg("--version").stdin(Stdio::null()).kill_on_drop(true);
        let begin = Instant::now();
        let output = command.output().await.map_err(|error| error.to_string())?;
        let took = begin.elapsed().as_secs_f64() * 1e3;
        if output.status.success() { Ok(took) } else { Err(format!("pyro --version: {}", output.status)) }
    }
}
