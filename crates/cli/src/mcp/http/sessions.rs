//! Sessions of clients over HTTP: so many, and not for ever. One counts as used while a call runs, a stream of it is open or
//! a message is on its way; who was used longest ago goes for one that comes.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use futures::Stream;
use rmcp::model::{
    ClientJsonRpcMessage, JsonRpcMessage, ProtocolVersion, RequestId, ServerJsonRpcMessage, ServerResult,
};
use rmcp::transport::streamable_http_server::session::local::{
    LocalSessionManager, LocalSessionManagerError, SessionTransport,
};
use rmcp::transport::streamable_http_server::session::{ServerSseMessage, SessionId, SessionManager};

/// Most sessions at once. One takes some 52 KiB, so all of them 13 MiB.
pub const MOST: usize = 256;
/// A session that was not used for so long is over: longer than a night between two days' work.
pub const IDLE: Duration = Duration::from_secs(16 * 60 * 60);
/// The SDK ends a session in which nothing is said for so long. A command may take a day (86,400 s), and says nothing while
/// it runs to a client that did not ask for its progress.
const SILENCE: Duration = Duration::from_secs(25 * 60 * 60);

/// The sessions.
pub struct Sessions {
    local: Arc<LocalSessionManager>,
    ledger: Ledger,
}

/// The sessions' uses.
#[derive(Clone, Debug, Default)]
pub struct Ledger(Arc<Mutex<HashMap<SessionId, Entry>>>);

#[derive(Debug)]
struct Entry {
    uses: usize,
    since: Instant,
    revision: Option<ProtocolVersion>,
    /// Requests under way.
    asked: HashSet<RequestId>,
}

/// Request of a session that is under way, until it is dropped.
#[derive(Debug)]
pub struct Asking {
    used: Use,
    id: RequestId,
}

/// Use of a session, until it is dropped.
#[derive(Debug)]
pub struct Use {
    ledger: Ledger,
    id: SessionId,
    revision: Option<ProtocolVersion>,
}

/// Reason why a session cannot do what it is asked.
#[derive(Debug, thiserror::Error)]
pub enum SessionFailure {
    /// There are as many as may be, and all are used.
    #[error("all {MOST} sessions are in use: end one, or try again when a call has ended")]
    Full,
    /// What the SDK says.
    #[error(transparent)]
    Local(#[from] LocalSessionManagerError),
}

impl Ledger {
    fn entries(&self) -> MutexGuard<'_, HashMap<SessionId, Entry>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Use of a session that begins now; nothing if there is no such session.
    pub fn begin(&self, id: &str) -> Option<Use> {
        let mut entries = self.entries();
        let (id, _) = entries.get_key_value(id)?;
        let id = Arc::clone(id);
        let entry = entries.get_mut(&id)?;
        entry.uses += 1;
        Some(Use { ledger: self.clone(), id, revision: entry.revision.clone() })
    }

    /// Whether no session can be made, because all are used.
    pub fn is_full(&self) -> bool {
        let entries = self.entries();
        entries.len() >= MOST && entries.values().all(|entry| entry.uses > 0)
    }

    /// Takes out those that are over at `now`, and more where there are too many; says whether there is room then.
    fn make_room(&self, now: Instant) -> (Vec<SessionId>, bool) {
        let mut over = self.take_idle(now);
        let mut entries = self.entries();
        while entries.len() >= MOST {
            let idle = entries.iter().filter(|(_, entry)| entry.uses == 0);
            let Some((id, _)) = idle.min_by_key(|(_, entry)| entry.since) else { return (over, false) };
            let id = Arc::clone(id);
            entries.remove(&id);
            over.push(id);
        }
        (over, true)
    }

    fn take_idle(&self, now: Instant) -> Vec<SessionId> {
        let is_over = |entry: &Entry| entry.uses == 0 && now.saturating_duration_since(entry.since) >= IDLE;
        self.entries().extract_if(|_, entry| is_over(entry)).map(|(id, _)| id).collect()
    }

    fn add(&self, id: SessionId, now: Instant) {
        self.entries().insert(id, Entry { uses: 0, since: now, revision: None, asked: HashSet::new() });
    }
}

impl Use {
    /// Revision of the protocol that the session has agreed on.
    pub fn revision(&self) -> Option<&ProtocolVersion> {
        self.revision.as_ref()
    }

    /// Request that begins now; nothing if one of this id is under way: there would be one answer to both.
    pub fn ask(&self, id: &RequestId) -> Option<Asking> {
        let used = self.ledger.begin(&self.id)?;
        let new = self.ledger.entries().get_mut(&self.id)?.asked.insert(id.clone());
        new.then(|| Asking { used, id: id.clone() })
    }
}

impl Drop for Asking {
    fn drop(&mut self) {
        if let Some(entry) = self.used.ledger.entries().get_mut(&self.used.id) {
            entry.asked.remove(&self.id);
        }
    }
}

impl Drop for Use {
    fn drop(&mut self) {
        if let Some(entry) = self.ledger.entries().get_mut(&self.id) {
            entry.uses = entry.uses.saturating_sub(1);
            entry.since = Instant::now();
        }
    }
}

impl Sessions {
    /// No session yet; their uses are noted in `ledger`.
    pub fn new(ledger: Ledger) -> Self {
        let mut local = LocalSessionManager::default();
        local.session_config.keep_alive = Some(SILENCE);
        Self { local: local.into(), ledger }
    }

    /// Ends sessions that were not used for [`IDLE`].
    pub fn sweep(&self) {
        self.end(self.ledger.take_idle(Instant::now()));
    }

    fn end(&self, sessions: Vec<SessionId>) {
        for id in sessions {
            let local = Arc::clone(&self.local);
            // A session whose client does not read hears of its end late, and nobody waits for that.
            tokio::spawn(async move { local.close_session(&id).await });
        }
    }
}

impl SessionManager for Sessions {
    type Error = SessionFailure;
    type Transport = SessionTransport;

    async fn create_session(&self) -> Result<(SessionId, Self::Transport), Self::Error> {
        let (over, room) = self.ledger.make_room(Instant::now());
        self.end(over);
        if !room {
            return Err(SessionFailure::Full);
        }
        let (id, transport) = self.local.create_session().await?;
        self.ledger.add(Arc::clone(&id), Instant::now());
        Ok((id, transport))
    }

    async fn initialize_session(
        &self,
        id: &SessionId,
        message: ClientJsonRpcMessage,
    ) -> Result<ServerJsonRpcMessage, Self::Error> {
        let answer = self.local.initialize_session(id, message).await?;
        if let JsonRpcMessage::Response(response) = &answer
            && let ServerResult::InitializeResult(agreed) = &response.result
            && let Some(entry) = self.ledger.entries().get_mut(id)
        {
            entry.revision = Some(agreed.protocol_version.clone());
        }
        Ok(answer)
    }

    async fn has_session(&self, id: &SessionId) -> Result<bool, Self::Error> {
        Ok(self.local.has_session(id).await?)
    }

    async fn close_session(&self, id: &SessionId) -> Result<(), Self::Error> {
        self.ledger.entries().remove(id);
        Ok(self.local.close_session(id).await?)
    }

    async fn create_stream(
        &self,
        id: &SessionId,
        message: ClientJsonRpcMessage,
    ) -> Result<impl Stream<Item = ServerSseMessage> + Send + Sync + 'static, Self::Error> {
        Ok(self.local.create_stream(id, message).await?)
    }

    async fn accept_message(&self, id: &SessionId, message: ClientJsonRpcMessage) -> Result<(), Self::Error> {
        Ok(self.local.accept_message(id, message).await?)
    }

    async fn create_standalone_stream(
        &self,
        id: &SessionId,
    ) -> Result<impl Stream<Item = ServerSseMessage> + Send + Sync + 'static, Self::Error> {
        Ok(self.local.create_standalone_stream(id).await?)
    }

    async fn resume(
        &self,
        id: &SessionId,
        last_event_id: String,
    ) -> Result<impl Stream<Item = ServerSseMessage> + Send + Sync + 'static, Self::Error> {
        Ok(self.local.resume(id, last_event_id).await?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ledger(sessions: usize, begin: Instant) -> Ledger {
        let ledger = Ledger::default();
        for number in 0..sessions {
            ledger.add(number.to_string().into(), begin + Duration::from_secs(number as u64));
        }
        ledger
    }

    #[test]
    fn the_one_used_longest_ago_goes() {
        let begin = Instant::now();
        let ledger = ledger(MOST - 1, begin);
        assert_eq!(ledger.make_room(begin), (vec![], true));
        ledger.add("last".into(), begin + Duration::from_secs(1000));
        // The first is used now, the second was used just now.
        let used = ledger.begin("0").unwrap();
        drop((ledger.begin("1"), ledger.begin("1")));
        ledger.entries().get_mut("1").unwrap().since = begin + Duration::from_secs(2000);
        assert_eq!(ledger.make_room(begin), (vec!["2".into()], true));
        drop(used);
        assert!(ledger.begin("2").is_none());
    }

    #[test]
    fn one_that_is_used_does_not_go() {
        let begin = Instant::now();
        let ledger = ledger(MOST, begin);
        let mut uses: Vec<Use> = (0..MOST).map(|at| ledger.begin(&at.to_string()).unwrap()).collect();
        assert!(ledger.is_full() && ledger.make_room(begin) == (vec![], false));
        let later = begin + IDLE * 2;
        assert!(ledger.take_idle(later).is_empty());
        uses.remove(9);
        assert!(!ledger.is_full());
        assert_eq!(ledger.make_room(begin), (vec!["9".into()], true));
    }

    #[test]
    fn an_id_is_one_requests_at_a_time() {
        let ledger = ledger(2, Instant::now());
        let (one, other) = (ledger.begin("0").unwrap(), ledger.begin("1").unwrap());
        let id = RequestId::Number(1);
        let asking = one.ask(&id).unwrap();
        assert!(
            one.ask(&id).is_none() && other.ask(&id).is_some() && one.ask(&RequestId::Number(2)).is_some()
        );
        drop((asking, one));
        let one = ledger.begin("0").unwrap();
        assert!(one.ask(&id).is_some());
        assert_eq!(ledger.entries()["0"].uses, 1, "what is refused is no use");
    }

    #[test]
    fn idle_ones_are_over_in_time() {
        let begin = Instant::now();
        let ledger = ledger(3, begin);
        let used = ledger.begin("0").unwrap();
        assert!(ledger.take_idle(begin + IDLE - Duration::from_secs(1)).is_empty());
        let mut over = ledger.take_idle(begin + IDLE + Duration::from_secs(5));
        over.sort();
        assert_eq!(over, ["1".into(), "2".into()]);
        drop(used);
        assert!(ledger.begin("0").is_some() && ledger.begin("1").is_none());
    }
}
