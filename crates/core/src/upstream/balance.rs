//! The choice among endpoints that are equally near and have capacity.
//!
//! Endpoints of unequal weight get their shares. Among endpoints of equal weight the one with the
//! lowest time to first token is chosen, but every twentieth request goes to a slower one, to keep
//! its latency known.

use rand::Rng as _;
use smallvec::SmallVec;

use super::route::Route;

/// One request in this many goes to an endpoint that is not the fastest.
const EXPLORE: u32 = 20;
/// An endpoint within this factor of the fastest counts as equally fast.
const AS_GOOD: f64 = 1.2;

/// Returns the index of one of `routes`: by weight where weights differ, else by latency.
pub(super) fn pick(routes: &[&Route]) -> usize {
    let mut random = rand::rng();
    let first = routes.first().map_or(1, |route| route.weight);
    if routes.iter().any(|route| route.weight != first) {
        let total: u64 = routes.iter().map(|route| u64::from(route.weight)).sum();
        let mut point = random.random_range(0..total.max(1));
        return routes
            .iter()
            .position(|route| {
                let here = point < u64::from(route.weight);
                point = point.saturating_sub(u64::from(route.weight));
                here
            })
            .unwrap_or(0);
    }
    let speeds: SmallVec<[Option<f64>; 4]> = routes
        .iter()
        .map(|route| {
            route
                .stats
                .latency
                .average()
                .map(|average| average.as_secs_f64())
        })
        .collect();
    // An endpoint without a known latency goes before all others.
    let good: SmallVec<[usize; 4]> = match speeds.iter().flatten().copied().min_by(f64::total_cmp) {
        Some(best) if speeds.iter().all(Option::is_some) => {
            let as_good = |speed: &Option<f64>| speed.is_some_and(|speed| speed <= best * AS_GOOD);
            let explore = random.random_range(0..EXPLORE) == 0;
            let slower: SmallVec<[usize; 4]> = positions(&speeds, |speed| !as_good(speed));
            if explore && !slower.is_empty() {
                slower
            } else {
                positions(&speeds, as_good)
            }
        }
        _ => positions(&speeds, Option::is_none),
    };
    good.get(random.random_range(0..good.len().max(1)))
        .copied()
        .unwrap_or(0)
}

fn positions(speeds: &[Option<f64>], fits: impl Fn(&Option<f64>) -> bool) -> SmallVec<[usize; 4]> {
    speeds
        .iter()
        .enumerate()
        .filter(|(_, speed)| fits(speed))
        .map(|(at, _)| at)
        .collect()
}
