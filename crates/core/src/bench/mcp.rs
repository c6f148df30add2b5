//! The MCP server as a client has it: a process of `pyro mcp serve` that is told lines and answers lines.

use std::process::Stdio;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

use super::workspace::{Place, TTL, split};
use super::{Bench, Measure, Row, Series};

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
        let line = format!("{message}\n");
        self.input.write_all(line.as_bytes()).await.map_err(|error| error.to_string())
    }

    async fn ask(&mut self, method: &str, params: Value) -> Result<Value, String> {
        self.asked += 1;
        let id = self.asked;
        self.write(&json!({"jsonrpc": "2.0", "id": id, "method": method, "params": params})).await?;
        let answer = async {
            loop {
                let mut line = String::new();
                match self.output.read_line(&mut line).await {
                    Ok(0) => return Err("the server is gone".to_owned()),
                    Ok(_) => {}
                    Err(error) => return Err(error.to_string()),
                }
                let message: Value = serde_json::from_str(&line).map_err(|error| error.to_string())?;
                if message["id"] == id {
                    return Ok(message);
                }
            }
        };
        let answer = tokio::time::timeout(DEADLINE, answer).await;
        let answer = answer.map_err(|_| format!("no answer within {} s", DEADLINE.as_secs()))??;
        match answer.get("result") {
            Some(result) if result["isError"] != true => Ok(result.clone()),
            _ => Err(format!("{method}: {answer}")),
        }
    }

    /// Calls a tool that runs a command; how long it took, ms.
    async fn call(&mut self, tool: &str, arguments: Value) -> Result<f64, String> {
        let begin = Instant::now();
        let result = self.ask("tools/call", json!({"name": tool, "arguments": arguments})).await?;
        let took = begin.elapsed().as_secs_f64() * 1e3;
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
    let [mut exec, mut guest] = [const { Series::new() }; 2];
    let [mut run, mut by_itself] = [const { Series::new() }; 2];
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
    if let Err(why) = calls(bench, [&mut exec, &mut guest, &mut run, &mut by_itself]).await {
        bench.keep(MEASURE, &mut exec, Err(why));
    }
    let environment = &bench.plan.environment;
    vec![
        Row::new("mcp_ready", "ms", "pyro mcp serve, spawn to the answer to tools/list", ready)
            .against("pyro --version, exec to exit", nothing),
        Row::new("mcp_exec", "ms", "workspace_exec of true, call to result", exec)
            .against("the guest's part of pyro workspace exec ID -- true: fork to reaped", guest),
        Row::new("mcp_run", "ms", format!("vm_run of true in {environment}, call to result"), run)
            .against(format!("pyro run {environment} -- true, exec to exit"), by_itself),
    ]
}

/// Samples of calls by one server, each in turn with what it is compared with.
async fn calls(bench: &mut Bench<'_>, series: [&mut Series; 4]) -> Result<(), String> {
    let [exec, guest, run, by_itself] = series;
    let (mut server, _) = Server::start(bench).await?;
    let (kept, _) = Place::usual(bench).create(TTL).await?;
    let in_workspace = json!({"workspace_id": kept.id, "command": "true"});
    let in_vm = json!({"environment": bench.plan.environment, "command": "true"});
    // Of the first of each nothing was translated yet.
    server.call("workspace_exec", in_workspace.clone()).await?;
    server.call("vm_run", in_vm.clone()).await?;
    for _ in 0..bench.plan.amount.runs {
        let sample = server.call("workspace_exec", in_workspace.clone()).await;
        bench.keep(MEASURE, exec, sample);
        let sample = server.call("vm_run", in_vm.clone()).await;
        bench.keep(MEASURE, run, sample);
        // A guest that was just used is faster than one that waited while another VM ran: both wait.
        let (_, part) = split(kept.exec(&["true"]).await);
        bench.keep(MEASURE, guest, part);
        let sample = bench.run_warm().await;
        bench.keep(MEASURE, by_itself, sample);
    }
    drop(kept);
    server.leave().await;
    Ok(())
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
