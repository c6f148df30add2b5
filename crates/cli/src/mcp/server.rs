//! The protocol: what a client asks for, answered.

use std::collections::BTreeMap;
use std::sync::Arc;

use rmcp::model::{
    CallToolRequestParams, CallToolResponse, CallToolResult, ContentBlock, ErrorCode, ErrorData,
    Implementation, ListToolsResult, PaginatedRequestParams, ServerCapabilities, ServerConfig, Tool as Shown,
};
use rmcp::service::RequestContext;
use rmcp::transport::async_rw::AsyncRwTransport;
use rmcp::{RoleServer, ServerHandler, ServiceExt as _};

use super::call::Call;
use super::host::Host;
use super::profile::Profile;
use super::tool::{Ordered, Tool};
use super::tools;

/// Longest message from a client, bytes: a file of 64 MiB, every byte of it escaped, is longer; a sync is for those.
const LONGEST: usize = 128 << 20;

/// What a client is told about this server, for its model.
const INSTRUCTIONS: &str = "\
pyro gives you isolated Linux machines; nothing that runs in them touches the person's host.
1. workspace_create (seed_path copies a project in), or vm_run for one command that needs no files kept.
2. Look and edit with workspace_file_list, workspace_file_read, workspace_file_write and workspace_patch_apply.
3. workspace_exec runs commands in /workspace; a command's exit code is its own, not a failure of the tool.
4. workspace_diff shows all that changed since the beginning; workspace_reset goes back to it.
5. workspace_export copies results to the host; workspace_delete when done.";

/// One server, for any number of clients.
#[derive(Clone)]
pub struct Server {
    host: Arc<Host>,
    /// In the order in which they are shown.
    tools: Arc<Vec<Tool>>,
    by_name: Arc<BTreeMap<String, usize>>,
}

impl Server {
    /// One that shows a profile's tools.
    pub fn new(host: Arc<Host>, profile: Profile) -> Self {
        let tools: Vec<Tool> = tools::all().into_iter().filter(|tool| profile.shows(tool.name())).collect();
        let by_name = tools.iter().enumerate().map(|(at, tool)| (tool.name().to_owned(), at)).collect();
        Self { host, tools: tools.into(), by_name: Arc::new(by_name) }
    }

    async fn call(
        &self,
        request: CallToolRequestParams,
        context: RequestContext<RoleServer>,
    ) -> Result<CallToolResult, ErrorData> {
        let Some(tool) = self.by_name.get(request.name.as_ref()).and_then(|at| self.tools.get(*at)) else {
            let there = "tools/list shows those that there are";
            return Err(ErrorData::invalid_params(
                format!("there is no tool {:?}: {there}", request.name),
                None,
            ));
        };
        let arguments = request.arguments.unwrap_or_default();
        // Nothing may be awaited before this: it is what keeps calls in the order in which they came.
        let workspace = arguments.get("workspace_id").and_then(|id| id.as_str());
        let turn = workspace.filter(|_| tool.ordered != Ordered::Not).map(|workspace| {
            self.host.order.enter(self.host.workspaces.resolve(workspace), tool.ordered == Ordered::Change)
        });
        let call = Call::new(context.peer.clone(), context.meta.get_progress_token());
        let done = async {
            if let Some(turn) = &turn {
                turn.come().await;
            }
            tool.call(Arc::clone(&self.host), arguments, call).await
        };
        let done = tokio::select! {
            done = done => done,
            // Dropping the call ends what it began.
            () = context.ct.cancelled() => {
                return Err(ErrorData::new(ErrorCode::INTERNAL_ERROR, "the call was cancelled", None));
            }
        };
        Ok(match done {
            Ok(value) => {
                let mut result = CallToolResult::success(vec![ContentBlock::text(value.to_string())]);
                result.structured_content = Some(value);
                result
            }
            Err(failure) => failure.result(),
        })
    }
}

impl ServerHandler for Server {
    fn get_info(&self) -> ServerConfig {
        let mut info = ServerConfig::new(ServerCapabilities::builder().enable_tools().build());
        info.server_info = Implementation::new("pyro", env!("CARGO_PKG_VERSION"));
        info.instructions = Some(INSTRUCTIONS.into());
        info
    }

    async fn list_tools(
        &self,
        _: Option<PaginatedRequestParams>,
        _: RequestContext<RoleServer>,
    ) -> Result<ListToolsResult, ErrorData> {
        let tools: Vec<Shown> = self.tools.iter().map(|tool| tool.shown().clone()).collect();
        Ok(ListToolsResult::with_all_items(tools))
    }

    fn get_tool(&self, name: &str) -> Option<Shown> {
        self.by_name.get(name).and_then(|at| self.tools.get(*at)).map(|tool| tool.shown().clone())
    }

    async fn call_tool(
        &self,
        request: CallToolRequestParams,
        context: RequestContext<RoleServer>,
    ) -> Result<CallToolResponse, ErrorData> {
        self.call(request, context).await.map(Into::into)
    }
}

/// Serves the client at the other end of standard input and output until it goes.
///
/// # Errors
/// When the conversation cannot begin.
pub async fn serve_stdio(host: Arc<Host>, profile: Profile) -> Result<(), String> {
    let (input, output) = rmcp::transport::stdio();
    let transport = AsyncRwTransport::new_server(input, output).with_max_line_length(LONGEST);
    match Server::new(host, profile).serve(transport).await {
        Ok(running) => running.waiting().await.map(|_| ()).map_err(|error| error.to_string()),
        // A client that goes before it said anything is no failure.
        Err(rmcp::service::ServerInitializeError::ConnectionClosed(_)) => Ok(()),
        Err(error) => Err(error.to_string()),
    }
}
