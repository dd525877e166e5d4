"""Known answers of one whole transaction: every derived value, every byte of both roles."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Final

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from dkey.access.certificate import ReaderCertificate
from dkey.access.credential import key_slot
from dkey.access.exchange import ExchangeRequest, parse_response
from dkey.access.messages import (
    Auth1Payload,
    ControlFlow,
    CryptogramPayload,
    Ins,
    Signaling,
    command,
)
from dkey.access.profile import ALIRO, Interface
from dkey.access.schedule import (
    DEVICE_USAGE,
    READER_USAGE,
    SessionKeys,
    ble_keys,
    diffie_hellman_key,
    step_up_keys,
)
from dkey.access.select import SelectResponse, select_command
from dkey.codec import tlv
from dkey.codec.apdu import Command
from dkey.conformance.vectors_replay import OK, Transaction, device_answers, reader_commands
from dkey.crypto.channel import SecureChannel, open_once, seal_once
from dkey.crypto.p256 import PrivateKey, PublicKey
from dkey.crypto.secret import Secret

if TYPE_CHECKING:
    from collections.abc import Mapping

    from dkey.access.schedule import Context
    from dkey.conformance.vectors_case import Case, Tally

__all__ = ["check_fast", "check_published", "check_standard", "published_reader"]

_KEYS: Final = {
    "sk_reader": "exchange_reader",
    "sk_device": "exchange_device",
    "step_up_sk": "step_up",
    "ble_sk": "ble",
    "ursk": "ursk",
    "cryptogram_sk": "cryptogram",
}
_INTERFACES: Final = {each.name.lower(): each for each in Interface}
_V1: Final = ALIRO.versions[0]


def _key(case: Case, name: str) -> PrivateKey:
    return PrivateKey.from_scalar(case.hex(name, 32))


def _interface(case: Case) -> Interface:
    name = case.text("interface")
    if name not in _INTERFACES:
        raise case.error("interface", f"expected {' or '.join(_INTERFACES)}")
    return _INTERFACES[name]


def _issuer(case: Case) -> PublicKey | None:
    inputs = case.section("inputs")
    return _key(inputs, "issuer_private_key").public if inputs.has("issuer_private_key") else None


# --- standard ---------------------------------------------------------------------------------


def check_standard(case: Case, tally: Tally, _by_id: Mapping[str, Case]) -> None:
    """Check a standard transaction with all its intermediate values."""
    inputs = case.section("inputs")
    known = Transaction(
        interface=_interface(case),
        reader=_key(inputs, "reader_private_key"),
        credential=_key(inputs, "credential_private_key").public,
        issuer=_issuer(case),
        reader_ephemeral=_key(inputs, "reader_ephemeral_private_key"),
        device_ephemeral=_key(inputs, "device_ephemeral_private_key"),
        reader_id=inputs.hex("reader_identifier", 32),
        transaction_id=inputs.hex("transaction_identifier", 16),
        a5=inputs.hex("a5_tlv"),
        parameters=inputs.hex("command_parameters", 1)[0],
        policy=inputs.hex("authentication_policy", 1)[0],
        certificate=case.hex("certificate_compressed") if _has_certificate(case) else b"",
        reader_signature=case.hex("reader_signature_example", 64),
        device_signature=case.hex("device_signature_example", 64),
    )
    keys = _check_schedule(case, tally, known)
    _check_proofs(case, tally, known)
    _check_certificate(case, tally, known)
    _check_sealed(case, tally, known, keys)
    _check_roles(case, tally, known)


def _has_certificate(case: Case) -> bool:
    return case.has("certificate_compressed")


def _check_schedule(case: Case, tally: Tally, known: Transaction) -> SessionKeys:
    context = known.context
    shared = known.reader_ephemeral.agree(known.device_ephemeral.public)
    kdh = diffie_hellman_key(shared, known.transaction_id)
    keys = context.standard(kdh)
    persistent = context.persistent(kdh, known.credential.x)
    tally.same(case, "kdh", lambda: kdh, case.hex("kdh"))
    salt = case.hex("salt_volatile")
    tally.same(case, "salt_volatile", lambda: context.salt(b"Volatile****"), salt)
    salt = case.hex("salt_persistent")
    tally.same(
        case,
        "salt_persistent",
        lambda: context.salt(b"Persistent**", known.credential.x),
        salt,
    )
    tally.same(case, "info", lambda: context.info, case.hex("info"))
    tally.same(case, "kpersistent", lambda: persistent, case.hex("kpersistent"))
    _check_keys(case, tally, keys)
    tally.same(case, "key_slot", lambda: key_slot(known.credential), case.hex("key_slot"))
    if case.has("step_up_keys"):
        step_up = keys.step_up or Secret(b"")
        _check_pair(case.section("step_up_keys"), tally, step_up_keys(step_up))
    if case.has("ble_keys"):
        _check_pair(case.section("ble_keys"), tally, ble_keys(keys.ble, _V1, _V1))
    return keys


def _check_keys(case: Case, tally: Tally, keys: SessionKeys) -> None:
    listed = case.section("keys")
    for name in listed.names():
        if name in _KEYS:
            tally.same(listed, name, partial(getattr, keys, _KEYS[name]), listed.hex(name))
    tally.not_yet(len(listed.unread()))


def _check_pair(case: Case, tally: Tally, keys: tuple[Secret, Secret]) -> None:
    tally.same(case, "reader", lambda: keys[0], case.hex("reader"))
    tally.same(case, "device", lambda: keys[1], case.hex("device"))


def _check_proofs(case: Case, tally: Tally, known: Transaction) -> None:
    """What both sides sign, and that the known signatures verify."""
    context: Context = known.context
    signed = context.signed_data(READER_USAGE)
    tally.same(case, "signed_by_reader", lambda: signed, case.hex("signed_by_reader"))
    reader = known.reader.public
    tally.accepts(case, "reader's signature", lambda: reader.verify(known.reader_signature, signed))
    answer = context.signed_data(DEVICE_USAGE)
    tally.same(case, "signed_by_device", lambda: answer, case.hex("signed_by_device"))
    tally.accepts(
        case,
        "device's signature",
        lambda: known.credential.verify(known.device_signature, answer),
    )


def _check_certificate(case: Case, tally: Tally, known: Transaction) -> None:
    issuer = known.issuer
    if not known.certificate or issuer is None:
        return
    own = ReaderCertificate.expand(known.certificate)
    tally.same(case, "certificate_compressed", own.compress, known.certificate)
    tally.same(case, "certified key", lambda: own.public_key, known.reader.public)
    tally.accepts(case, "issuer's signature", lambda: own.verify(issuer))
    if case.has("certificate_x509"):
        der = case.hex("certificate_x509")
        tally.same(case, "certificate_x509", lambda: own.to_x509(issuer), der)
        tally.same(case, "fields of it", lambda: ReaderCertificate.from_x509(der), own)


def _check_sealed(case: Case, tally: Tally, known: Transaction, keys: SessionKeys) -> None:
    """AUTH1 and EXCHANGE, sealed by one end and opened by the other."""
    reader, device = _channels(keys)
    plain = case.hex("auth1_response_plaintext")
    payload = Auth1Payload(
        public_key=known.credential.point,
        signature=known.device_signature,
        signaling=Signaling(0),
    )
    tally.same(case, "auth1_response_plaintext", payload.to_bytes, plain)
    tally.same(case, "parsed AUTH1 response", lambda: Auth1Payload.parse(plain), payload)
    sealed = _status_cut(case, "auth1_response")
    tally.same(case, "sealed AUTH1 response", lambda: device.seal(plain), sealed)
    tally.same(case, "opened AUTH1 response", lambda: reader.open(sealed), plain)
    ask, answer = case.hex("exchange_plaintext"), case.hex("exchange_response_plaintext")
    tally.same(case, "exchange_plaintext", lambda: ExchangeRequest.parse(ask).to_bytes(), ask)
    tally.same(case, "parsed EXCHANGE answer", lambda: parse_response(answer), ((), 0))
    sealed_ask = Command.parse(case.hex("exchange_command")).data
    sealed_answer = _status_cut(case, "exchange_response")
    tally.same(case, "sealed EXCHANGE", lambda: reader.seal(ask), sealed_ask)
    tally.same(case, "opened EXCHANGE", lambda: device.open(sealed_ask), ask)
    tally.same(case, "sealed EXCHANGE answer", lambda: device.seal(answer), sealed_answer)
    tally.same(case, "opened EXCHANGE answer", lambda: reader.open(sealed_answer), answer)


def _channels(keys: SessionKeys) -> tuple[SecureChannel, SecureChannel]:
    pair = keys.exchange_reader, keys.exchange_device
    return SecureChannel(*pair, is_reader=True), SecureChannel(*pair, is_reader=False)


def _status_cut(case: Case, name: str) -> bytes:
    return case.hex(name)[:-2]


def _check_roles(case: Case, tally: Tally, known: Transaction) -> None:
    """Every command of the reader and every answer of the device."""
    select = case.hex("select_response")
    tally.same(case, "A5 object", lambda: SelectResponse.parse(select[:-2]).a5, known.a5)
    commands = [case.hex("auth0_command")]
    responses = [case.hex("auth0_response")]
    if known.certificate:
        commands.append(command(Ins.LOAD_CERT, known.certificate).to_bytes())
        responses.append(OK)
    commands.append(case.hex("auth1_command_example"))
    responses.append(case.hex("auth1_response"))
    exchange = case.hex("exchange_command"), case.hex("exchange_response")
    _check_both(
        case,
        tally,
        known,
        commands=[*commands, exchange[0]],
        responses=[select, *responses, exchange[1]],
        plaintext=case.hex("exchange_plaintext"),
    )


def _check_both(
    case: Case,
    tally: Tally,
    known: Transaction,
    *,
    commands: list[bytes],
    responses: list[bytes],
    plaintext: bytes,
) -> None:
    """Compare both roles; ``commands`` start behind SELECT, ``responses`` with its answer."""
    wanted = [select_command(ALIRO.access_aid).to_bytes(), *commands]
    tally.same(
        case,
        "commands of the reader",
        lambda: reader_commands(known, responses[:-1], [(plaintext, responses[-1])]),
        wanted,
    )
    if known.a5 != _own_a5():
        tally.not_yet()  # the device sends another A5 object, so other keys follow
        return
    tally.same(case, "answers of the device", lambda: device_answers(known, commands), responses)


def _own_a5() -> bytes:
    own = SelectResponse(
        aid=ALIRO.access_aid, versions=ALIRO.versions, application_type=ALIRO.application_type
    )
    return own.encode_a5()


# --- fast -------------------------------------------------------------------------------------


def check_fast(case: Case, tally: Tally, by_id: Mapping[str, Case]) -> None:
    """Check a fast transaction; the standard one before it may name the issuer."""
    inputs = case.section("inputs")
    before = by_id.get(case.text("after")) if case.has("after") else None
    if before is None:
        raise case.error("after", "names no entry of this file")
    known = Transaction(
        interface=_interface(case),
        reader=_key(inputs, "reader_private_key"),
        credential=PublicKey.parse(inputs.hex("credential_public_key", 65)),
        issuer=_issuer(before),
        reader_ephemeral=_key(inputs, "reader_ephemeral_private_key"),
        device_ephemeral=_key(inputs, "device_ephemeral_private_key"),
        reader_id=inputs.hex("reader_identifier", 32),
        transaction_id=inputs.hex("transaction_identifier", 16),
        a5=inputs.hex("a5_tlv"),
        parameters=inputs.hex("command_parameters", 1)[0],
        policy=inputs.hex("authentication_policy", 1)[0],
        kpersistent=(kpersistent := Secret(inputs.hex("kpersistent", 32))),
    )
    context = known.context
    keys = context.fast(kpersistent, known.credential.x)
    salt, cryptogram = case.hex("salt_fast"), case.hex("cryptogram")
    tally.same(case, "salt_fast", lambda: context.salt(b"VolatileFast", known.credential.x), salt)
    tally.same(case, "info", lambda: context.info, case.hex("info"))
    tally.same(case, "kpersistent before", lambda: kpersistent, before.hex("kpersistent"))
    reader = before.section("inputs").hex("reader_private_key", 32)
    tally.same(case, "reader before", lambda: inputs.hex("reader_private_key", 32), reader)
    _check_keys(case, tally, keys)
    plain = CryptogramPayload(signaling=Signaling(0)).to_bytes()
    tally.same(case, "cryptogram", lambda: seal_once(keys.cryptogram, plain), cryptogram)
    tally.same(case, "opened", lambda: open_once(keys.cryptogram, cryptogram), plain)
    select = tlv.encode(0x6F, tlv.encode(0x84, ALIRO.access_aid) + known.a5) + OK
    sealed = case.hex("exchange_command")
    ask = _channels(keys)[1].open(Command.parse(sealed).data)
    _check_both(
        case,
        tally,
        known,
        commands=[case.hex("auth0_command"), sealed],
        responses=[select, case.hex("auth0_response"), case.hex("exchange_response")],
        plaintext=ask,
    )


# --- the published transaction ----------------------------------------------------------------


def _pem(case: Case, name: str) -> PrivateKey:
    try:
        key = load_pem_private_key(case.text(name).encode(), None)
    except ValueError as exc:
        raise case.error(name, "expected a private key in PEM") from exc
    if not isinstance(key, ec.EllipticCurvePrivateKey) or key.curve.name != "secp256r1":
        raise case.error(name, "expected a private key of P-256")
    return PrivateKey(key)


def published_reader(case: Case) -> PublicKey | None:
    """Return the reader key of a published transaction; None for any other entry."""
    return _pem(case, "reader_priv_pem").public if case.has("reader_priv_pem") else None


def check_published(case: Case, tally: Tally, _by_id: Mapping[str, Case]) -> None:
    """Check the published standard transaction, whose AUTH1 answer has an outdated bitmap."""
    select = case.hex("select_response")
    auth0 = Command.parse(case.hex("auth0_command"))
    known = Transaction(
        interface=Interface.NFC,
        reader=_pem(case, "reader_priv_pem"),
        credential=_pem(case, "credential_priv_pem").public,
        issuer=None,
        reader_ephemeral=_pem(case, "reader_ephemeral_priv_pem"),
        device_ephemeral=_pem(case, "credential_ephemeral_priv_pem"),
        reader_id=case.hex("reader_group_identifier", 16)
        + case.hex("reader_group_sub_identifier", 16),
        transaction_id=case.hex("transaction_identifier", 16),
        a5=SelectResponse.parse(select[:-2]).a5,
        parameters=auth0.data[2],
        policy=auth0.data[5],
        reader_signature=case.hex("reader_signature", 64),
        device_signature=case.hex("user_device_signature", 64),
    )
    tally.same(case, "protocol_version", lambda: _V1, case.hex("protocol_version"))
    tally.same(case, "aid", lambda: ALIRO.access_aid, case.hex("aid"))
    context = known.context
    shared = known.reader_ephemeral.agree(known.device_ephemeral.public)
    kdh = diffie_hellman_key(shared, known.transaction_id)
    keys = context.standard(kdh)
    salt = case.hex("salt_volatile")
    tally.same(case, "kdh", lambda: kdh, case.hex("kdh"))
    tally.same(case, "salt_volatile", lambda: context.salt(b"Volatile****"), salt)
    for name in ("exchange_sk_reader", "exchange_sk_device"):
        ours = partial(getattr, keys, name.replace("_sk", ""))
        tally.same(case, name, ours, case.hex(name))
    signed = context.signed_data(READER_USAGE)
    tally.same(
        case, "reader_authentication_data", lambda: signed, case.hex("reader_authentication_data")
    )
    tally.accepts(
        case,
        "reader_signature",
        lambda: known.reader.public.verify(known.reader_signature, signed),
    )
    answer = context.signed_data(DEVICE_USAGE)
    tally.accepts(
        case,
        "user_device_signature",
        lambda: known.credential.verify(known.device_signature, answer),
    )
    reader, device = _channels(keys)
    plain = reader.open(_status_cut(case, "auth1_response"))
    tally.same(case, "auth1_response", lambda: device.seal(plain) + OK, case.hex("auth1_response"))
    _check_published_roles(case, tally, known)


def _check_published_roles(case: Case, tally: Tally, known: Transaction) -> None:
    responses = [case.hex("select_response"), case.hex("auth0_response")]
    commands = [case.hex(f"{name}_command") for name in ("select", "auth0", "auth1")]
    tally.same(case, "commands of the reader", lambda: reader_commands(known, responses), commands)
    ended = command(Ins.CONTROL_FLOW, ControlFlow().to_bytes()).to_bytes()
    tally.same(
        case,
        "answers of the device",
        lambda: device_answers(known, [commands[1], ended]),
        [*responses, case.hex("control_flow_response")],
    )
