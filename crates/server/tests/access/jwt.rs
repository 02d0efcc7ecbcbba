//! Tokens of login servers, from outside: which are accepted, and every trick that is not.

use std::net::SocketAddr;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::support::{Answer, Request, World, response, start, with};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::rand::SystemRandom;
use ring::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _, RSA_PKCS1_SHA256,
    RsaKeyPair, RsaPublicKeyComponents,
};
use serde_json::{Value, json};
use tokenwire::config::auth::{KeyEntry, Role};
use tokenwire::config::client_limits::ClientLimits;
use tokenwire::config::jwt_issuer::{Algorithm, JwtIssuer};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

const ISSUER: &str = "https://login.example.com/";
const AUDIENCE: &str = "tokenwire";
const SECRET: &[u8] = b"0123456789abcdef0123456789abcdef";
const KEY: &str = "sk-tw-alice-alice-alice-alice";

fn encoded(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

fn now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap()
        .as_secs()
}

/// A key of an issuer.
enum Signer {
    Ed(Ed25519KeyPair),
    Ec(EcdsaKeyPair),
    Rsa(Box<RsaKeyPair>),
    Secret(Vec<u8>),
}

impl Signer {
    fn ed() -> Self {
        let bytes = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).unwrap();
        Self::Ed(Ed25519KeyPair::from_pkcs8(bytes.as_ref()).unwrap())
    }

    fn ec() -> Self {
        let random = SystemRandom::new();
        let algorithm = &ECDSA_P256_SHA256_FIXED_SIGNING;
        let bytes = EcdsaKeyPair::generate_pkcs8(algorithm, &random).unwrap();
        Self::Ec(EcdsaKeyPair::from_pkcs8(algorithm, bytes.as_ref(), &random).unwrap())
    }

    /// A key that openssl makes: ring makes none.
    fn rsa() -> Self {
        let arguments = "genpkey -quiet -algorithm RSA -pkeyopt rsa_keygen_bits:2048 -outform DER";
        let made = Command::new("openssl").args(arguments.split(' ')).output();
        let made = made.unwrap().stdout;
        Self::Rsa(Box::new(
            RsaKeyPair::from_der(&made)
                .or_else(|_| RsaKeyPair::from_pkcs8(&made))
                .unwrap(),
        ))
    }

    fn algorithm(&self) -> &'static str {
        match self {
            Self::Ed(_) => "EdDSA",
            Self::Ec(_) => "ES256",
            Self::Rsa(_) => "RS256",
            Self::Secret(_) => "HS256",
        }
    }

    /// The public key, or the secret, as a JWK.
    fn jwk(&self, id: &str) -> Value {
        let mut key = match self {
            Self::Ed(pair) => {
                json!({"kty": "OKP", "crv": "Ed25519", "x": encoded(pair.public_key())})
            }
            Self::Ec(pair) => {
                let point = pair.public_key().as_ref();
                let (x, y) = (encoded(&point[1..33]), encoded(&point[33..]));
                json!({"kty": "EC", "crv": "P-256", "x": x, "y": y})
            }
            Self::Rsa(pair) => {
                let public = RsaPublicKeyComponents::<Vec<u8>>::from(pair.public_key());
                json!({"kty": "RSA", "n": encoded(&public.n), "e": encoded(&public.e)})
            }
            Self::Secret(secret) => json!({"kty": "oct", "k": encoded(secret)}),
        };
        key["kid"] = id.into();
        key
    }

    fn sign(&self, message: &[u8]) -> Vec<u8> {
        let random = SystemRandom::new();
        match self {
            Self::Ed(pair) => pair.sign(message).as_ref().to_vec(),
            Self::Ec(pair) => pair.sign(&random, message).unwrap().as_ref().to_vec(),
            Self::Rsa(pair) => {
                let mut signature = vec![0; pair.public().modulus_len()];
                pair.sign(&RSA_PKCS1_SHA256, &random, message, &mut signature)
                    .unwrap();
                signature
            }
            Self::Secret(secret) => {
                let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, secret);
                ring::hmac::sign(&key, message).as_ref().to_vec()
            }
        }
    }

    fn token_with(&self, header: &Value, claims: &Value) -> String {
        let signed = format!(
            "{}.{}",
            encoded(header.to_string()),
            encoded(claims.to_string())
        );
        let signature = encoded(self.sign(signed.as_bytes()));
        format!("{signed}.{signature}")
    }

    fn token(&self, claims: &Value) -> String {
        let header = json!({"alg": self.algorithm(), "typ": "JWT", "kid": "one"});
        self.token_with(&header, claims)
    }
}

/// The claims of a good token of this subject.
fn claims(subject: &str) -> Value {
    json!({
        "iss": ISSUER, "aud": AUDIENCE, "sub": subject, "iat": now(), "exp": now() + 600, "azp": "app"
    })
}

fn issuer(name: &str, signers: &[&Signer]) -> JwtIssuer {
    let keys: Vec<Value> = signers.iter().map(|signer| signer.jwk("one")).collect();
    let algorithms = signers.iter().map(|signer| match signer {
        Signer::Ed(_) => Algorithm::EdDSA,
        Signer::Ec(_) => Algorithm::ES256,
        Signer::Rsa(_) => Algorithm::RS256,
        Signer::Secret(_) => Algorithm::HS256,
    });
    JwtIssuer {
        name: name.to_owned(),
        issuer: ISSUER.to_owned(),
        audience: AUDIENCE.to_owned(),
        algorithms: algorithms.collect(),
        jwks: Some(json!({"keys": keys}).to_string().into()),
        ..JwtIssuer::default()
    }
}

fn world(issuers: Vec<JwtIssuer>) -> World {
    start(|config| {
        config.auth.jwt = issuers;
        config.auth.keys = vec![KeyEntry {
            owner: "alice".to_owned(),
            key: Some(KEY.to_owned().into()),
            role: Role::Operator,
            ..KeyEntry::default()
        }];
    })
}

fn by(request: Request, token: &str) -> Request {
    request.header("authorization", &format!("Bearer {token}"))
}

async fn models(world: &World, token: &str) -> Answer {
    by(world.get("/v1/models"), token).answer().await
}

#[tokio::test]
async fn tokens_of_every_kind_of_key_are_accepted_beside_keys() {
    for signer in [
        Signer::ed(),
        Signer::ec(),
        Signer::rsa(),
        Signer::Secret(SECRET.to_vec()),
    ] {
        let world = world(vec![issuer("corp", &[&signer])]);
        let answer = models(&world, &signer.token(&claims("one"))).await;
        assert_eq!(
            answer.status,
            200,
            "{}: {}",
            signer.algorithm(),
            answer.text()
        );
        // Of several audiences one counts, and without an id the only key does.
        let several = with(claims("one"), json!({"aud": ["other", AUDIENCE]}));
        let header = json!({"alg": signer.algorithm()});
        let answer = models(&world, &signer.token_with(&header, &several)).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        assert_eq!(models(&world, KEY).await.status, 200);
        assert_eq!(models(&world, "sk-tw-wrong").await.status, 401);
    }
}

#[tokio::test]
async fn tokens_with_tricks_are_refused() {
    let (signer, stranger) = (Signer::rsa(), Signer::rsa());
    let attacker = Jwks::serve(&json!({"keys": [stranger.jwk("one")]}), "").await;
    let world = world(vec![issuer("corp", &[&signer])]);
    let good = claims("one");
    let token = signer.token(&good);
    assert_eq!(models(&world, &token).await.status, 200);
    let parts: Vec<&str> = token.split('.').collect();
    let header = |members: Value| with(json!({"alg": "RS256", "kid": "one"}), members);
    let claim = |members: Value| signer.token(&with(claims("one"), members));
    let Signer::Rsa(pair) = &signer else {
        unreachable!()
    };
    let public = RsaPublicKeyComponents::<Vec<u8>>::from(pair.public_key());
    // The public key as the secret of an HMAC.
    let confused = |secret: &[u8]| {
        Signer::Secret(secret.to_vec()).token_with(&header(json!({"alg": "HS256"})), &good)
    };
    let changed = encoded(claims("two").to_string());
    let none = |name: &str| {
        let head = encoded(header(json!({"alg": name})).to_string());
        (
            format!("{head}.{}.", parts[1]),
            format!("{head}.{}.{}", parts[1], parts[2]),
        )
    };
    let mut without = claims("one");
    without.as_object_mut().unwrap().remove("exp");
    let url = format!("http://{}/jwks", attacker.address);
    let mut cases = vec![
        ("signature removed", format!("{}.{}.", parts[0], parts[1])),
        (
            "claims changed",
            format!("{}.{changed}.{}", parts[0], parts[2]),
        ),
        ("another key", stranger.token(&good)),
        ("modulus as secret", confused(&public.n)),
        ("key in DER as secret", confused(pair.public_key().as_ref())),
        (
            "another issuer",
            claim(json!({"iss": "https://evil.example/"})),
        ),
        (
            "issuer without its slash",
            claim(json!({"iss": "https://login.example.com"})),
        ),
        ("issuer in a list", claim(json!({"iss": [ISSUER]}))),
        ("another audience", claim(json!({"aud": "other"}))),
        ("a longer audience", claim(json!({"aud": "tokenwire2"}))),
        ("no audience", claim(json!({"aud": null}))),
        ("no end", signer.token(&without)),
        ("an end in text", claim(json!({"exp": "tomorrow"}))),
        ("an end beyond all", claim(json!({"exp": 1e300}))),
        (
            "ended",
            claim(json!({"iat": now() - 600, "exp": now() - 60})),
        ),
        ("not begun", claim(json!({"nbf": now() + 120}))),
        ("of the future", claim(json!({"iat": now() + 120}))),
        ("too long", claim(json!({"exp": now() + 100_000}))),
        ("no owner", claim(json!({"sub": ""}))),
        ("an owner in a list", claim(json!({"sub": ["one"]}))),
        (
            "unknown id",
            signer.token_with(&header(json!({"kid": "two"})), &good),
        ),
        (
            "id as a path",
            signer.token_with(&header(json!({"kid": "../../etc/passwd"})), &good),
        ),
        (
            "id as a query",
            signer.token_with(&header(json!({"kid": "' OR 1=1 --"})), &good),
        ),
        (
            "id as a number",
            signer.token_with(&header(json!({"kid": 1})), &good),
        ),
        (
            "critical extension",
            signer.token_with(&header(json!({"crit": ["exp"], "exp": 1})), &good),
        ),
        (
            "key in the header",
            stranger.token_with(&header(json!({"jwk": stranger.jwk("one")})), &good),
        ),
        (
            "key at a URL",
            stranger.token_with(&header(json!({"jku": url, "x5u": url})), &good),
        ),
        (
            "algorithm of the wrong case",
            signer.token_with(&header(json!({"alg": "rs256"})), &good),
        ),
        (
            "another algorithm",
            signer.token_with(&header(json!({"alg": "RS512"})), &good),
        ),
        ("too large", claim(json!({"more": "x".repeat(20_000)}))),
        (
            "no JSON",
            format!("{}.{}.{}", encoded("{"), parts[1], parts[2]),
        ),
        ("padded", format!("{}=.{}.{}", parts[0], parts[1], parts[2])),
    ];
    for name in ["none", "None", "NONE", ""] {
        let (bare, signed) = none(name);
        cases.push(("no algorithm", bare));
        cases.push(("no algorithm, signed", signed));
    }
    for (what, token) in &cases {
        let answer = models(&world, token).await;
        let code = answer.json()["error"]["code"].clone();
        assert_eq!(
            (answer.status, code),
            (401, json!("invalid_api_key")),
            "{what}"
        );
        let told = answer.text();
        assert!(
            !told.contains(token.as_str()) && !told.contains("evil"),
            "{what}: {told}"
        );
    }
    assert_eq!(attacker.fetches(), 0, "a URL of a token was followed");
}

#[tokio::test]
async fn one_subject_of_two_issuers_is_two_owners() {
    let (one, other) = (Signer::ed(), Signer::ed());
    let elsewhere = JwtIssuer {
        issuer: "https://other.example.com".to_owned(),
        ..issuer("other", &[&other])
    };
    let world = world(vec![issuer("corp", &[&one]), elsewhere]);
    let first = one.token(&claims("same"));
    let second = other.token(&with(
        claims("same"),
        json!({"iss": "https://other.example.com"}),
    ));
    let post = |token: &str| by(world.post("/v1/responses", &response("tokens=1")), token);
    let id = post(&first).answer().await.id().to_owned();
    let path = format!("/v1/responses/{id}");
    for (token, status) in [(&first, 200), (&second, 404), (&KEY.to_owned(), 404)] {
        assert_eq!(by(world.get(&path), token).answer().await.status, status);
    }
    // A later token of the same owner, whose name has any characters.
    let again = one.token(&with(claims("same"), json!({"exp": now() + 60})));
    assert_eq!(by(world.get(&path), &again).answer().await.status, 200);
    let odd = one.token(&claims("auth0|a/b %ü"));
    assert_eq!(post(&odd).answer().await.status, 200);
}

#[tokio::test]
async fn a_role_counts_from_an_issuer_that_may_give_it() {
    let signer = Signer::ed();
    let with_roles = |roles: Vec<Role>| JwtIssuer {
        role_claim: Some("roles".to_owned()),
        roles,
        ..issuer("corp", &[&signer])
    };
    let operator = signer.token(&with(claims("one"), json!({"roles": ["user", "operator"]})));
    let metrics = async |world: &World, token: &str| {
        let request = world
            .get("/metrics")
            .header("x-forwarded-for", "203.0.113.7");
        by(request, token).answer().await.status
    };
    let world = world(vec![with_roles(vec![Role::User])]);
    assert_eq!(metrics(&world, &operator).await, 401);
    assert_eq!(models(&world, &operator).await.status, 401);
    let world = self::world(vec![with_roles(vec![Role::User, Role::Operator])]);
    assert_eq!(metrics(&world, &operator).await, 200);
    assert_eq!(metrics(&world, &signer.token(&claims("one"))).await, 403);
}

#[tokio::test]
async fn tickets_of_a_token_are_its_owners_and_end_with_it() {
    let signer = Signer::ed();
    let world = world(vec![issuer("corp", &[&signer])]);
    let token = signer.token(&with(
        claims("one"),
        json!({"iat": now() - 60, "exp": now() - 27}),
    ));
    let ask = by(
        world.post("/v1/tickets", &json!({"may": ["start"]})),
        &token,
    );
    let answer = ask.answer().await;
    let text = answer.json()["ticket"].as_str().unwrap().to_owned();
    let path = format!("/v1/streams?input=%5B%5Btokens%3D1%5D%5D&ticket={text}");
    let started = world.get(&path).answer().await;
    assert_eq!(started.status, 200, "{}", started.text());
    let later = signer.token(&claims("one"));
    let own = by(
        world.get(&format!("/v1/responses/{}", started.id())),
        &later,
    );
    assert_eq!(own.answer().await.status, 200);
    crate::support::eventually("the end of the ticket", async || {
        world.get(&path).answer().await.status == 401
    })
    .await;
}

#[tokio::test]
async fn limits_are_those_of_the_issuer_and_a_token_only_lowers_them() {
    let signer = Signer::ed();
    let limited = JwtIssuer {
        limits: ClientLimits {
            requests_per_minute: Some(4),
            ..ClientLimits::default()
        },
        limits_claim: Some("limits".to_owned()),
        ..issuer("corp", &[&signer])
    };
    let world = world(vec![limited]);
    let token = |subject: &str, members: Value| signer.token(&with(claims(subject), members));
    let left = async |token: &str| {
        let request = by(world.post("/v1/responses", &response("tokens=1")), token);
        let answer = request.answer().await;
        let limit = answer.header("x-ratelimit-limit-requests");
        (answer.status, limit.map(|limit| limit.to_string()))
    };
    let lower = token("one", json!({"limits": {"requests_per_minute": 2}}));
    assert_eq!(left(&lower).await, (200, Some("2".to_owned())));
    let higher = token("two", json!({"limits": {"requests_per_minute": 1000}}));
    assert_eq!(left(&higher).await, (200, Some("4".to_owned())));
    for odd in [
        json!("none"),
        json!({"requests": 1}),
        json!({"streams": -1}),
    ] {
        let odd = token("three", json!({"limits": odd}));
        assert_eq!(models(&world, &odd).await.status, 401);
    }
    // A new token of the same owner begins no new minute.
    for number in 0..3 {
        let again = token("two", json!({"exp": now() + 100 + number}));
        assert_eq!(left(&again).await.0, 200);
    }
    let again = token("two", json!({"exp": now() + 200}));
    assert_eq!(left(&again).await.0, 429);
}

#[tokio::test]
async fn revoked_owner_needs_a_later_token() {
    let signer = Signer::ed();
    let world = world(vec![issuer("corp", &[&signer])]);
    let token = |members: Value| signer.token(&with(claims("one"), members));
    let first = token(json!({}));
    let mut undated = claims("one");
    undated.as_object_mut().unwrap().remove("iat");
    let undated = signer.token(&undated);
    assert_eq!(models(&world, &undated).await.status, 200);
    let other = signer.token(&claims("two"));
    let endless = response("tokens=100000 text=count tbt=20ms");
    let mut stream = by(world.post("/v1/streams", &endless), &first).send().await;
    stream.until("output_text.delta").await;
    let ask = by(world.post("/v1/tickets", &json!({})), &first);
    let ticket = ask.answer().await.json()["ticket"]
        .as_str()
        .unwrap()
        .to_owned();
    let revoke = world.post("/v1/tickets/revoke", &json!({"owner": "corp/one"}));
    assert_eq!(by(revoke, KEY).answer().await.status, 200);
    stream.until("response.incomplete").await;
    for refused in [&first, &undated, &token(json!({"iat": now() - 9}))] {
        let answer = models(&world, refused).await;
        assert_eq!(answer.status, 401, "{}", answer.text());
    }
    let path = format!("/v1/ws?ticket={ticket}");
    assert_eq!(world.get(&path).answer().await.status, 401);
    assert_eq!(models(&world, &other).await.status, 200);
    let later = token(json!({"iat": now() + 2}));
    assert_eq!(models(&world, &later).await.status, 200);
}

// === published keys ===
/// A server that publishes keys.
struct Jwks {
    address: SocketAddr,
    fetches: Arc<AtomicUsize>,
}

impl Jwks {
    /// Answers every request with this set, or with these header lines.
    async fn serve(set: &Value, head: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let fetches = Arc::new(AtomicUsize::new(0));
        let body = set.to_string();
        let answer = match head {
            "" => format!(
                "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
                body.len()
            ),
            head => head.to_owned(),
        };
        let counted = fetches.clone();
        tokio::spawn(async move {
            while let Ok((mut socket, _)) = listener.accept().await {
                counted.fetch_add(1, Ordering::SeqCst);
                let answer = answer.clone();
                tokio::spawn(async move {
                    let mut head = [0; 4096];
                    let _ = socket.read(&mut head).await;
                    let _ = socket.write_all(answer.as_bytes()).await;
                });
            }
        });
        Self { address, fetches }
    }

    fn fetches(&self) -> usize {
        self.fetches.load(Ordering::SeqCst)
    }

    fn issuer(&self) -> JwtIssuer {
        JwtIssuer {
            name: "corp".to_owned(),
            issuer: ISSUER.to_owned(),
            audience: AUDIENCE.to_owned(),
            algorithms: vec![Algorithm::EdDSA],
            jwks_url: Some(format!("http://{}/jwks", self.address)),
            max_age: Duration::from_secs(3600),
            ..JwtIssuer::default()
        }
    }
}

#[tokio::test]
async fn published_keys_are_fetched_once_for_all_requests_and_unknown_ids() {
    let signer = Signer::ed();
    let secret = Signer::Secret(SECRET.to_vec());
    // A published secret is none: any client could sign with it.
    let set = json!({"keys": [signer.jwk("one"), secret.jwk("two"), {"kty": "unknown"}, 7]});
    let jwks = Jwks::serve(&set, "").await;
    let mut issuer = jwks.issuer();
    issuer.algorithms.push(Algorithm::HS256);
    let world = world(vec![issuer]);
    let token = signer.token(&claims("one"));
    let requests = (0..20).map(|_| models(&world, &token));
    for answer in futures::future::join_all(requests).await {
        assert_eq!(answer.status, 200, "{}", answer.text());
    }
    for number in 0..20 {
        let header = json!({"alg": "EdDSA", "kid": number.to_string()});
        let unknown = signer.token_with(&header, &claims("one"));
        assert_eq!(models(&world, &unknown).await.status, 401);
    }
    let header = json!({"alg": "HS256", "kid": "two"});
    let published = secret.token_with(&header, &claims("one"));
    assert_eq!(models(&world, &published).await.status, 401);
    assert_eq!(jwks.fetches(), 1);
}

#[tokio::test]
async fn keys_are_not_fetched_from_another_host_and_not_without_end() {
    let signer = Signer::ed();
    let token = signer.token(&claims("one"));
    let good = Jwks::serve(&json!({"keys": [signer.jwk("one")]}), "").await;
    let moved = format!(
        "HTTP/1.1 302 Found\r\nlocation: http://localhost:{}/jwks\r\ncontent-length: 0\r\nconnection: close\r\n\r\n",
        good.address.port()
    );
    let large = format!(
        "HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n{{\"keys\":[{}]}}{}",
        signer.jwk("one"),
        " ".repeat(300_000)
    );
    for head in [
        moved.as_str(),
        &large,
        "HTTP/1.1 500 Oops\r\ncontent-length: 0\r\n\r\n",
    ] {
        let jwks = Jwks::serve(&json!({}), head).await;
        let world = world(vec![jwks.issuer()]);
        assert_eq!(models(&world, &token).await.status, 401, "{head:.60}");
        assert_eq!(jwks.fetches(), 1);
    }
    assert_eq!(good.fetches(), 0);
    let world = world(vec![good.issuer()]);
    assert_eq!(models(&world, &token).await.status, 200);
}
