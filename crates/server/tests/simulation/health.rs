//! What happened to the processes, and what follows for those that adopt their streams.

/// A process of a node.
#[derive(Debug)]
pub(crate) struct Health {
    pub(crate) node: usize,
    pub(crate) tag: String,
    /// When it was killed.
    pub(crate) ended: Option<u64>,
    /// Since when it does not run.
    paused: Option<u64>,
    /// Times in which it did not reach Redis.
    no_redis: Vec<(u64, u64)>,
    /// Times in which it did not answer another node.
    no_peers: Vec<(u64, u64)>,
}

/// What a node that does not answer is taken for lost after at most: its lease, a question to it, and
/// requests to Redis that fail.
const NOTICED: u64 = 8_000;
/// How long an end waits for Redis, and some more.
const SHOWN: u64 = 15_000;
/// How long a process needs at most to store what waited for Redis: a request that hangs, and the pauses
/// before the next connection and the next append.
const STORED: u64 = 3_000;

// === impl Health ===

impl Health {
    pub(crate) fn new(node: usize, tag: &str) -> Self {
        Self {
            node,
            tag: tag.to_owned(),
            ended: None,
            paused: None,
            no_redis: Vec::new(),
            no_peers: Vec::new(),
        }
    }

    pub(crate) fn pause(&mut self, now: u64) {
        self.paused.get_or_insert(now);
    }

    pub(crate) fn wake(&mut self, now: u64) {
        if let Some(since) = self.paused.take() {
            self.no_peers.push((since, now));
        }
    }

    /// Notes that it does not reach Redis until then.
    pub(crate) fn lose_redis(&mut self, now: u64, until: u64) {
        self.no_redis.push((now, until));
    }

    /// Notes that it does not reach another node until then.
    pub(crate) fn lose_peers(&mut self, now: u64, until: u64) {
        self.no_peers.push((now, until));
    }

    /// Whether it has run, and has answered the others, for long.
    pub(crate) fn is_well(&self, now: u64) -> bool {
        let past = now.saturating_sub(NOTICED);
        let has_answered = self.no_peers.iter().all(|(_, until)| *until < past);
        self.ended.is_none() && self.paused.is_none() && has_answered
    }

    /// Whether it did not run, or did not answer all others, at this time.
    pub(crate) fn was_away(&self, at: u64) -> bool {
        let mut away = self.no_peers.iter();
        away.any(|(from, until)| from.saturating_sub(NOTICED) <= at && at <= until + NOTICED)
            || self.paused.is_some()
    }

    /// Whether it was, around this time, cut off from Redis and from other nodes, or killed at any time
    /// before it had stored what it had shown without Redis. Then it may show an end of its own: that is said in the
    /// docs.
    pub(crate) fn is_isolated(&self, at: u64) -> bool {
        let is_near =
            |(from, until): &(u64, u64)| from.saturating_sub(SHOWN) <= at && at <= until + SHOWN;
        let was_killed = |(from, until): &(u64, u64)| {
            self.ended
                .is_some_and(|ended| *from <= ended && ended <= until + STORED)
        };
        let is_cut_off = self.no_peers.iter().any(is_near) || self.paused.is_some();
        let mut no_redis = self.no_redis.iter();
        no_redis.any(|time| is_cut_off && is_near(time) || was_killed(time))
    }
}
