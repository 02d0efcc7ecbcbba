//! Idempotency keys whose claimant is killed: no other node asks the upstream a second time.

use crate::support::cluster_world::{ClusterWorld, LONG};
use crate::support::process::Process;
use crate::support::redis_proxy::{Fate, RedisProxy, has};
use crate::support::{Answer, Request, eventually, patiently, post, response, with};
use serde_json::json;

const ALL: &str = "store:\n  replicate: all\n";

/// Where the claimant is killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Moment {
    BeforeHeader,
    BetweenHeaderAndClaim,
    BetweenClaimAndUpstream,
    AfterUpstream,
}

fn is_script(bytes: &[u8]) -> bool {
    has(bytes, "EVALSHA")
}

fn rule(moment: Moment) -> impl FnMut(&[u8]) -> Fate + Send + 'static {
    move |bytes| match moment {
        Moment::BeforeHeader if is_script(bytes) && has(bytes, ":log:resp_") => Fate::StopBefore,
        Moment::BetweenHeaderAndClaim if is_script(bytes) && has(bytes, "tw:key:") => {
            Fate::StopBefore
        }
        Moment::BetweenClaimAndUpstream if is_script(bytes) && has(bytes, "tw:key:") => {
            Fate::StopAfter
        }
        _ => Fate::Pass,
    }
}

fn keyed(node: &Process, background: bool) -> Request {
    let mut body = response(LONG);
    if background {
        body = with(body, json!({"stream": false, "background": true}));
    }
    post(node, "/v1/responses", &body).header("idempotency-key", "order-12")
}

/// Repeats a request until it is not refused for now.
async fn repeated(node: &Process, background: bool) -> (u16, String) {
    patiently("an answer that is final", async {
        loop {
            let mut exchange = keyed(node, background).send().await;
            let status = exchange.status().await;
            if status == 503 {
                continue;
            }
            if status == 200 && !background {
                // It runs: it does not end in the time of a test.
                exchange.until("response.").await;
                let text = String::from_utf8_lossy(&exchange.body).into_owned();
                return (status, text);
            }
            let answer: Answer = exchange.answer().await;
            return (status, answer.text());
        }
    })
    .await
}

/// Has Redis load the scripts, so that each is one command from then on. Asks the upstream once.
async fn load_scripts(node: &Process) {
    let request = post(node, "/v1/responses", &response("tokens=1"));
    let answer = request.header("idempotency-key", "other").answer().await;
    assert_eq!(answer.status, 200, "{}", answer.text());
}

async fn claimant_is_killed(moment: Moment, background: bool, more: &str) {
    let world = ClusterWorld::new();
    let proxy = RedisProxy::start(world.redis.address(), rule(moment)).await;
    let others = [world.start_with(more), world.start_with(more)];
    load_scripts(&others[0]).await;
    let claimant = world.start_behind(&proxy, more);
    let request = keyed(&claimant, background);
    let waiting = tokio::spawn(async move {
        // A node that has just started may refuse for now. Then it has claimed nothing.
        loop {
            let mut exchange = request.clone().send().await;
            while exchange.read().await {}
            if exchange.received_status() != Some(503) {
                return;
            }
        }
    });
    if moment == Moment::AfterUpstream {
        eventually("the upstream is asked", async || world.asked() == 2).await;
    } else {
        proxy.has_stopped().await;
    }
    drop(claimant);
    waiting.await.unwrap();
    let (first, second) = tokio::join!(
        repeated(&others[0], background),
        repeated(&others[1], background)
    );
    let case = format!("{moment:?}, background: {background}, {more}: {first:?} {second:?}");
    assert_eq!(first.0, second.0, "{case}");
    let asked = match moment {
        // No claim was made: the next request starts the response.
        Moment::BeforeHeader | Moment::BetweenHeaderAndClaim => {
            assert_eq!(first.0, 200, "{case}");
            2
        }
        // The claim stands, and the upstream may have been asked.
        Moment::BetweenClaimAndUpstream | Moment::AfterUpstream => {
            assert!(first.1.contains("producer_lost"), "{case}");
            1 + u64::from(moment == Moment::AfterUpstream)
        }
    };
    eventually("the upstream's count", async || world.asked() == asked).await;
    // All are one response.
    let (again, _) = repeated(&others[0], background).await;
    assert_eq!(again, first.0, "{case}");
    assert_eq!(world.asked(), asked, "{case}");
}

#[tokio::test]
async fn claimant_killed_before_its_header_leaves_the_key_free() {
    claimant_is_killed(Moment::BeforeHeader, false, "").await;
    claimant_is_killed(Moment::BeforeHeader, true, "").await;
}

#[tokio::test]
async fn claimant_killed_between_header_and_claim_leaves_the_key_free() {
    claimant_is_killed(Moment::BetweenHeaderAndClaim, false, "").await;
    claimant_is_killed(Moment::BetweenHeaderAndClaim, true, "").await;
}

#[tokio::test]
async fn claimant_killed_between_claim_and_upstream_keeps_the_key() {
    claimant_is_killed(Moment::BetweenClaimAndUpstream, false, "").await;
    claimant_is_killed(Moment::BetweenClaimAndUpstream, true, "").await;
}

#[tokio::test]
async fn claimant_killed_after_it_asked_the_upstream_keeps_the_key() {
    claimant_is_killed(Moment::AfterUpstream, false, "").await;
    claimant_is_killed(Moment::AfterUpstream, true, "").await;
    claimant_is_killed(Moment::AfterUpstream, false, ALL).await;
}

#[tokio::test]
async fn answer_of_the_claim_that_is_lost_asks_the_upstream_once() {
    let world = ClusterWorld::new();
    let mut left = 1;
    let proxy = RedisProxy::start(world.redis.address(), move |bytes| {
        if left > 0 && is_script(bytes) && has(bytes, "tw:key:") {
            left -= 1;
            return Fate::LoseAnswer;
        }
        Fate::Pass
    })
    .await;
    let other = world.start();
    load_scripts(&other).await;
    let claimant = world.start_behind(&proxy, "");
    let (status, text) = repeated(&claimant, true).await;
    let (other_status, other_text) = repeated(&other, true).await;
    let case = format!("{status} {text} {other_status} {other_text}");
    assert!(world.asked() <= 2, "{case}");
    assert_eq!(status, other_status, "{case}");
}
