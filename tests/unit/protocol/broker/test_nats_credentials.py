"""Credentials of NATS: what a file must hold, and one sentence for each fault, without a secret in it."""

import base64

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from rejoin_protocol.broker import subjects
from rejoin_protocol.broker.broker_permissions import BrokerPermissions
from rejoin_protocol.broker.nats_credentials import USER_PREFIX, parse_credentials, parse_nkey
from rejoin_protocol.errors import Invalid
from tests.support.system.operator_mode import ACCOUNT_PREFIX, Identity, Operator

NOW_S = 1_900_000_000.0
# From the tests of github.com/nats-io/nkeys: the seed and the public key of one user.
SEED = "SUAKYRHVIOREXV7EUZTBHUHL7NUMHPMAS7QMDU3GTIUWEI5LDNOXD43IZY"


def file() -> str:
    return Operator().user(BrokerPermissions(subjects.DEFAULT).gateway)


def seed_of(text: str) -> str:
    return text.split("-----BEGIN USER NKEY SEED-----\n")[1].partition("\n")[0]


def test_a_seed_signs_a_nonce_for_its_public_key() -> None:
    user = Identity(USER_PREFIX)
    credentials = parse_nkey(f"{user.seed}\n")
    assert (credentials.public_key, credentials.jwt) == (user.public, None)
    raw = base64.b32decode(user.public + "=" * (-len(user.public) % 8))[1:-2]
    signature = base64.b64decode(credentials.sign("nonce"))
    Ed25519PublicKey.from_public_bytes(raw).verify(signature, b"nonce")


def test_a_file_has_the_jwt_of_its_key() -> None:
    text = file()
    credentials = parse_credentials(text.replace("\n", "\r\n"), NOW_S)
    assert credentials.jwt == text.split("\n")[1]
    assert credentials.public_key.startswith("U")


def test_what_other_programs_have_made_is_read() -> None:
    assert parse_nkey(SEED).public_key.startswith("U")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda _: "", "no block BEGIN NATS USER JWT"),
        (lambda text: text.split("\n\n")[1], "no block BEGIN NATS USER JWT"),
        (lambda text: text.split("\n\n")[0], "no block BEGIN USER NKEY SEED"),
        (lambda text: text.replace(seed_of(text), seed_of(text)[:-3]), "damaged or not complete"),
        (lambda text: text.replace(seed_of(text), "S1!"), "not base32"),
        (lambda text: text.replace(seed_of(text), Identity(USER_PREFIX).seed), "different users"),
        (lambda text: text.replace(seed_of(text), Identity(USER_PREFIX).public), "damaged or not complete"),
        (lambda text: text.replace(seed_of(text), Identity(ACCOUNT_PREFIX).seed), "a user's begins with SU"),
        (lambda text: text.replace("eyJ", "!", 1).replace(".", "", 1), "its JWT is damaged"),
    ],
)
def test_each_fault_is_named_and_no_secret_with_it(change: object, words: str) -> None:
    text = file()
    assert callable(change)
    with pytest.raises(Invalid, match=words) as fault:
        parse_credentials(change(text), NOW_S)
    assert seed_of(text)[:12] not in str(fault.value)
    assert "eyJ" not in str(fault.value)


def test_an_expired_jwt_is_refused_here_already() -> None:
    text = Operator().user(expires_s=10)
    parse_credentials(text, 0)
    with pytest.raises(Invalid, match=r"its JWT expired \d+ s ago"):
        parse_credentials(text, 4_000_000_000.0)
