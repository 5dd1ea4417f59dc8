#!/usr/bin/python
# Copyright: (c) 2026, gpufleet.ollama contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: ollama_certificate
short_description: Make a certificate authority and a certificate of a server or a client on the controller
version_added: 0.1.0
description:
  - Makes a certificate authority in O(ca_dir) when there is none, and a certificate of a server or a client that it signs.
  - The certificate is made anew, with a new key, when fewer than O(renew_days) days are left, when its names are not
    O(subject_alt_names), when it is for another O(usage), when the authority is another one, or when it does not belong to its key.
  - Meant to run on the controller, C(delegate_to=localhost) with C(become=false). Several hosts may run it at the same time.
  - Keys are EC P-256, in files of mode 0600. They are never part of a result or a diff.
  - An authority of your own may be put in O(ca_dir) as C(ca.key) (PEM, EC or RSA, without a password) and C(ca.crt).
requirements:
  - cryptography (a requirement of ansible-core itself)
author:
  - gpufleet.ollama contributors (@gpufleet)
attributes:
  check_mode:
    support: full
    description: Writes nothing, and makes no directory; says what would be made.
  diff_mode:
    support: full
    description: Shows names, last day and fingerprint.
options:
  ca_dir:
    description: Directory of the authority; made with mode 0700 when missing. V(~) is the home of the user who runs the module.
    type: path
    required: true
  name:
    description: Names the files of the certificate, C(<name>.crt) and C(<name>.key).
    type: str
    required: true
  subject_alt_names:
    description: Host names and IP addresses of the server or the client. The first one is the common name of the subject, too.
    type: list
    elements: str
    required: true
  valid_days:
    description: How long a new certificate is valid, in days. It never outlives the authority, which is valid for ten years.
    type: int
    default: 365
  renew_days:
    description: Make the certificate anew when fewer days than this are left.
    type: int
    default: 30
  usage:
    description: What the certificate is for. A client that must show one is not let in with a server's, and a server is not trusted with a client's.
    type: str
    choices: [server, client]
    default: server
"""

EXAMPLES = r"""
- name: Make the certificate of the gateway
  gpufleet.ollama.ollama_certificate:
    ca_dir: ~/.config/gpufleet/ca
    name: "{{ inventory_hostname }}"
    subject_alt_names: [llm.example.org, 10.0.0.5]
  delegate_to: localhost
  become: false
"""

RETURN = r"""
ca_path:
  description: Certificate of the authority, for those who call the server.
  returned: success
  type: str
  sample: /home/op/.config/gpufleet/ca/ca.crt
certificate_path:
  description: The certificate. In check mode it may not be there yet.
  returned: success
  type: str
  sample: /home/op/.config/gpufleet/ca/gateway1.crt
key_path:
  description: Key of the certificate. In check mode it may not be there yet.
  returned: success
  type: str
  sample: /home/op/.config/gpufleet/ca/gateway1.key
fingerprint:
  description: SHA-256 of the certificate, in hex. Empty in check mode when a new one would be made.
  returned: success
  type: str
  sample: 5e0e4b1a0c7d7f0b6f8a0f3c1f3a9b0e5d4c3b2a19080706050403020100ffee
not_after:
  description: Last day of the certificate.
  returned: success
  type: str
  sample: "2027-03-01"
reason:
  description: Why the certificate was made anew. Empty when it was not.
  returned: success
  type: str
  sample: it ends in 12 days
"""

from ansible.module_utils.basic import AnsibleModule, missing_required_lib

from ansible_collections.gpufleet.ollama.plugins.module_utils import _certificate


def main() -> None:
    """Entry point."""
    module = AnsibleModule(
        argument_spec={
            "ca_dir": {"type": "path", "required": True},
            "name": {"type": "str", "required": True},
            "subject_alt_names": {"type": "list", "elements": "str", "required": True},
            "valid_days": {"type": "int", "default": 365},
            "renew_days": {"type": "int", "default": 30},
            "usage": {"type": "str", "choices": ["server", "client"], "default": "server"},
        },
        supports_check_mode=True,
    )
    if _certificate.CRYPTOGRAPHY_ERROR:
        module.fail_json(msg=missing_required_lib("cryptography"), exception=repr(_certificate.CRYPTOGRAPHY_ERROR))
    params = module.params
    try:
        result = _certificate.ensure(
            params["ca_dir"],
            params["name"],
            params["subject_alt_names"],
            params["valid_days"],
            params["renew_days"],
            module.check_mode,
            params["usage"],
        )
    except _certificate.CertificateError as error:
        module.fail_json(msg=str(error))
    except OSError as error:
        module.fail_json(msg=f"cannot keep the certificates in {params['ca_dir']}: {error}")
    before, after = result.pop("before"), result.pop("after")
    module.exit_json(
        fingerprint=after["fingerprint"],
        not_after=after["not_after"],
        diff={"before": before or {}, "after": after},
        **result,
    )


if __name__ == "__main__":
    main()
