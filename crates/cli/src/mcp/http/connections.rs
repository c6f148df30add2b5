//! The connections of the server over HTTP. Those that have not shown the token yet are few, are given seconds, and go when
//! others come, the oldest first; they never take a place of those that have.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

/// Most connections that have not shown the token. With [`KNOWN`] they stay below 1,024 open files, the usual limit.
pub const STRANGERS: usize = 256;
/// Most connections that have.
pub const KNOWN: usize = 256;
/// A stranger has so long to send the head of a request with the token, from the connection's beginning.
pub const PATIENCE: Duration = Duration::from_secs(5);

/// The connections that there are.
#[derive(Clone, Debug, Default)]
pub struct Connections(Arc<Mutex<Table>>);

#[derive(Debug, Default)]
struct Table {
    next: u64,
    all: HashMap<u64, Row>,
}

#[derive(Debug)]
struct Row {
    stage: Stage,
    end: CancellationToken,
}

/// What is known of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Stranger,
    /// So many requests are under way.
    Known {
        requests: usize,
        since: Instant,
    },
}

/// A connection's place, until it is dropped.
#[derive(Debug)]
pub struct Place {
    table: Connections,
    number: u64,
    end: CancellationToken,
}

/// A request on a connection, until its answer is sent.
#[derive(Debug)]
pub struct Visit {
    table: Connections,
    number: u64,
}

impl Connections {
    fn table(&self) -> MutexGuard<'_, Table> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Place of a connection that comes now; the oldest stranger goes where there are too many.
    pub fn enter(&self) -> Place {
        let end = CancellationToken::new();
        let mut table = self.table();
        let number = table.next;
        table.next += 1;
        let strangers = table.all.iter().filter(|(_, row)| row.stage == Stage::Stranger);
        let (count, oldest) =
            strangers.fold((0, u64::MAX), |(count, oldest), (at, _)| (count + 1, oldest.min(*at)));
        if count >= STRANGERS {
            table.end(oldest);
        }
        table.all.insert(number, Row { stage: Stage::Stranger, end: end.clone() });
        Place { table: self.clone(), number, end }
    }

    /// A request with the token on this connection. Where there are too many of those, the one goes that has been without a
    /// request longest; nothing if all have one, or if this connection has just been ended.
    pub fn visit(&self, number: u64) -> Option<Visit> {
        let mut table = self.table();
        if table.all.get(&number)?.stage == Stage::Stranger {
            let known = table.all.iter().filter_map(|(at, row)| match row.stage {
                Stage::Stranger => None,
                Stage::Known { requests, since } => Some((requests > 0, since, *at)),
            });
            let (count, first) = known.fold((0, None), |(count, first), one| {
                (count + 1, Some(first.map_or(one, |first| one.min(first))))
            });
            match first {
                Some((false, _, idle)) if count >= KNOWN => table.end(idle),
                Some((true, _, _)) if count >= KNOWN => return None,
                _ => {}
            }
        }
        let row = table.all.get_mut(&number)?;
        let requests = match row.stage {
            Stage::Stranger => 0,
            Stage::Known { requests, .. } => requests,
        };
        row.stage = Stage::Known { requests: requests + 1, since: Instant::now() };
        Some(Visit { table: self.clone(), number })
    }
}

impl Table {
    fn end(&mut self, number: u64) {
        if let Some(row) = self.all.remove(&number) {
            row.end.cancel();
        }
    }
}

impl Place {
    /// Number of the connection.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// Waits until the connection has to go: for another, or because it has not shown the token in time.
    pub async fn over(&self) {
        tokio::select! {
            () = self.end.cancelled() => return,
            () = tokio::time::sleep(PATIENCE) => {}
        }
        let stage = self.table.table().all.get(&self.number).map(|row| row.stage);
        if matches!(stage, Some(Stage::Known { .. })) {
            self.end.cancelled().await;
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.table.table().all.remove(&self.number);
    }
}

impl Drop for Visit {
    fn drop(&mut self) {
        if let Some(row) = self.table.table().all.get_mut(&self.number)
            && let Stage::Known { requests, since } = &mut row.stage
        {
            *requests = requests.saturating_sub(1);
            *since = Instant::now();
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;

    use super::*;

    fn ended(places: &[Place]) -> Vec<usize> {
        let ended = places.iter().enumerate().filter(|(_, place)| place.end.is_cancelled());
        ended.map(|(at, _)| at).collect()
    }

    #[test]
    fn strangers_push_out_the_oldest_stranger_and_nobody_else() {
        let all = Connections::default();
        let known: Vec<Place> = (0..KNOWN).map(|_| all.enter()).collect();
        let visits: Vec<Visit> = known.iter().map(|place| all.visit(place.number()).unwrap()).collect();
        drop(visits);
        let strangers: Vec<Place> = (0..STRANGERS + 3).map(|_| all.enter()).collect();
        assert_eq!((ended(&known), ended(&strangers)), (vec![], vec![0, 1, 2]));
        // One that was ended cannot show the token any more, and a place that is left is free.
        assert!(all.visit(strangers[0].number()).is_none());
        assert!(all.visit(strangers[3].number()).is_some());
        assert_eq!(ended(&known), [0], "the one that asked longest ago goes for one that asks");
        drop(strangers);
        let _fresh = all.enter();
        assert_eq!(all.table().all.len(), KNOWN - 1 + 1);
    }

    #[test]
    fn who_asks_is_not_sent_away() {
        let all = Connections::default();
        let known: Vec<Place> = (0..KNOWN).map(|_| all.enter()).collect();
        let mut visits: Vec<Visit> = known.iter().map(|place| all.visit(place.number()).unwrap()).collect();
        let next = all.enter();
        assert!(all.visit(next.number()).is_none() && ended(&known).is_empty());
        // Two requests at once on one connection, one of them answered.
        visits.push(all.visit(known[7].number()).unwrap());
        drop(visits.remove(7));
        assert!(all.visit(next.number()).is_none() && ended(&known).is_empty());
        visits.pop();
        assert!(all.visit(next.number()).is_some());
        assert_eq!(ended(&known), [7]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_stranger_has_seconds_and_a_known_one_has_not() {
        let all = Connections::default();
        let (stranger, known) = (all.enter(), all.enter());
        drop(all.visit(known.number()).unwrap());
        stranger.over().await;
        let mut waits = std::pin::pin!(known.over());
        assert!(waits.as_mut().now_or_never().is_none());
        tokio::time::advance(PATIENCE * 2).await;
        assert!(waits.as_mut().now_or_never().is_none());
        known.end.cancel();
        waits.await;
    }
}
