//! The choice among endpoints that are equally near and have capacity.
//!
//! Endpoints of unequal weight get their shares, but for one that has not answered any request for
//! two seconds and four times its average: its share goes to the others meanwhile. Of endpoints of
//! equal weight two are drawn at random (power of two choices), and the one with the lower score
//! gets the request:
//!
//! ```text
//!   score = (outstanding requests + 1) × expected time to first token
//! ```
//!
//! The expected time is the average, but at least the time since an answer while requests wait for
//! one. An endpoint without a known average is taken to be as fast as the other, so that only its
//! outstanding requests count. Sometimes an idle endpoint with the higher score gets a request, to
//! keep its average current.

use std::time::Duration;

use rand::Rng as _;
use smallvec::SmallVec;

use super::endpoint_stats::EndpointStats;
use super::route::Route;

/// One request in this many goes to the endpoint with the higher score, if that is idle.
const EXPLORE: u32 = 20;
/// Time to first token of two endpoints without a known average.
const UNKNOWN: Duration = Duration::from_millis(100);
/// Time without an answer after which an endpoint of unequal weight loses its share.
const STALLED: Duration = Duration::from_secs(2);
/// The same as a multiple of its average.
const STALLED_AVERAGES: u32 = 4;
/// Lowest expected time, so that outstanding requests count for the fastest endpoints too.
const LEAST: Duration = Duration::from_millis(1);

/// Returns the index of one of `routes`, of which there is at least one.
pub(super) fn pick(routes: &[&Route]) -> usize {
    let mut random = rand::rng();
    let Some(weight) = routes.first().map(|route| route.weight) else {
        return 0;
    };
    if routes.iter().any(|route| route.weight != weight) {
        let all_stalled = routes.iter().all(|route| is_stalled(&route.stats));
        let weight = |route: &Route| {
            if all_stalled || !is_stalled(&route.stats) {
                u64::from(route.weight)
            } else {
                0
            }
        };
        let weights: SmallVec<[u64; 4]> = routes.iter().map(|route| weight(route)).collect();
        let total: u64 = weights.iter().sum();
        return by_weight(&weights, random.random_range(0..total.max(1)));
    }
    let count = routes.len();
    if count < 2 {
        return 0;
    }
    let one = random.random_range(0..count);
    let other = (one + random.random_range(1..count)) % count;
    let (Some(first), Some(second)) = (routes.get(one), routes.get(other)) else {
        return one;
    };
    // In a tie `one` is taken, which is random.
    let (better, worse, idle) = if is_better(&second.stats, &first.stats) {
        (other, one, &first.stats)
    } else {
        (one, other, &second.stats)
    };
    if idle.outstanding() == 0 && random.random_range(0..EXPLORE) == 0 {
        worse
    } else {
        better
    }
}

/// Returns true if no request was answered for long while some wait for their first token.
fn is_stalled(stats: &EndpointStats) -> bool {
    let average = stats.latency.average().unwrap_or_default();
    stats.latency.silence() > STALLED.max(average.saturating_mul(STALLED_AVERAGES))
}

/// Returns the index at `point` on a line on which each index is as long as its weight.
fn by_weight(weights: &[u64], mut point: u64) -> usize {
    let hit = weights.iter().position(|&weight| {
        let is_here = point < weight;
        point = point.saturating_sub(weight);
        is_here
    });
    hit.unwrap_or(0)
}

fn is_better(one: &EndpointStats, other: &EndpointStats) -> bool {
    let (first, second) = (one.latency.average(), other.latency.average());
    let unknown = first.or(second).unwrap_or(UNKNOWN);
    score(one, first.unwrap_or(unknown)) < score(other, second.unwrap_or(unknown))
}

fn score(stats: &EndpointStats, average: Duration) -> f64 {
    let expected = average.max(stats.latency.silence()).max(LEAST);
    (stats.outstanding() + 1) as f64 * expected.as_secs_f64()
}
