"""Tokens of a login server: PyJWT signs them and makes the published keys, the SDK sends them as its key."""

import base64
import contextlib
import hashlib
import hmac
import http.server
import json
import threading
import time

import jwt
import openai
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from own import gateway

ISSUER = "https://login.example.com/"
AUDIENCE = "tokenwire"
KEYS = {
    "RS256": rsa.generate_private_key(public_exponent=65537, key_size=2048),
    "PS384": rsa.generate_private_key(public_exponent=65537, key_size=3072),
    "ES256": ec.generate_private_key(ec.SECP256R1()),
    "ES384": ec.generate_private_key(ec.SECP384R1()),
    "EdDSA": ed25519.Ed25519PrivateKey.generate(),
}


def published(algorithm: str) -> dict:
    made = jwt.get_algorithm_by_name(algorithm).to_jwk(KEYS[algorithm].public_key(), as_dict=True)
    return {**made, "kid": algorithm, "use": "sig"}


@contextlib.contextmanager
def key_server():
    """Publishes the keys, and yields the URL."""
    body = json.dumps({"keys": [published(algorithm) for algorithm in KEYS]}).encode()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/jwks"
        server.shutdown()


@pytest.fixture(scope="module")
def own_url(simulator):
    with key_server() as jwks:
        issuer = {
            "NAME": "corp",
            "ISSUER": ISSUER,
            "AUDIENCE": AUDIENCE,
            "ALGORITHMS": f"[{', '.join(KEYS)}]",
            "JWKS_URL": jwks,
            "LIMITS__REQUESTS_PER_MINUTE": "50",
            "LIMITS_CLAIM": "limits",
        }
        settings = {f"AUTH__JWT__0__{name}": value for name, value in issuer.items()}
        with gateway(f"{simulator.url}/v1", "chat", DEFAULT_MODEL="simulator", **settings) as url:
            yield url


def claims(**members: object) -> dict:
    now = int(time.time())
    return {"iss": ISSUER, "aud": AUDIENCE, "sub": "ann", "iat": now, "exp": now + 600, **members}


def token(algorithm: str = "RS256", headers: dict | None = None, **members: object) -> str:
    return jwt.encode(claims(**members), KEYS[algorithm], algorithm, headers={"kid": algorithm, **(headers or {})})


def client(url: str, key: str) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0)


@pytest.mark.parametrize("algorithm", KEYS)
def test_sdk_streams_with_a_token_of_every_algorithm(own_url, algorithm):
    with client(own_url, token(algorithm)) as sdk:
        stream = sdk.responses.create(model="simulator", input="[[tokens=3 text=count]]", stream=True)
        deltas = [event.delta for event in stream if event.type == "response.output_text.delta"]
    assert "".join(deltas) == " t0 t1 t2"


def test_claim_lowers_the_limits_of_the_issuer(own_url):
    for limits, expected in [({"requests_per_minute": 7}, "7"), ({"requests_per_minute": 9000}, "50")]:
        with client(own_url, token(sub="limited", limits=limits)) as sdk:
            answer = sdk.responses.with_raw_response.create(model="simulator", input="[[tokens=1]]")
        assert answer.headers["x-ratelimit-limit-requests"] == expected


def part(members: dict) -> str:
    return base64.urlsafe_b64encode(json.dumps(members).encode()).rstrip(b"=").decode()


def tricks() -> dict[str, str]:
    now = int(time.time())
    # PyJWT refuses a public key as a secret, so this one is signed by hand.
    public = KEYS["RS256"].public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    signed = f"{part({'alg': 'HS256', 'kid': 'RS256'})}.{part(claims())}"
    signature = base64.urlsafe_b64encode(hmac.digest(public, signed.encode(), hashlib.sha256)).rstrip(b"=").decode()
    return {
        "alg none": jwt.encode(claims(), None, "none"),
        "confusion": f"{signed}.{signature}",
        "kid of another key": token(headers={"kid": "PS384"}),
        "unknown kid": token(headers={"kid": "x"}),
        "expired": token(exp=now - 60),
        "not yet good": token(nbf=now + 90),
        "too long": token(exp=now + 7 * 86400),
        "audience": token(aud="other"),
        "issuer": token(iss="https://login.example.com"),
        "critical": token(headers={"crit": ["b64"], "b64": True}),
        "empty subject": token(sub=""),
        "cut": token()[:-8],
    }


@pytest.mark.parametrize("trick", tricks())
def test_sdk_raises_on_a_token_with_a_trick(own_url, trick):
    with client(own_url, tricks()[trick]) as sdk, pytest.raises(openai.AuthenticationError) as raised:
        sdk.models.list()
    assert raised.value.code == "invalid_api_key"
    assert raised.value.response.headers["www-authenticate"] == "Bearer"
