"""The join of docs/containers.md with kube-state-metrics, evaluated by Prometheus itself."""

import re
import subprocess
from pathlib import Path

import yaml

PAGE = Path(__file__).parents[2] / "docs" / "containers.md"
ID = "34dc0b5e626f2c5c4c5170e34b10e7654ce36f0fcd532739f4445baabea03376"
OTHER_ID = "9ec39b91f3d70e1beff50a308f77067065ea6be0d91a3378375056cd4422cf3d"


def sent(container: str, pod: str = "") -> dict[str, str]:
    labels = f'exe="/bin/x",sha256="ab",pod="{pod}",container="{container}",protocol="tcp"'
    return {
        "series": f"picosnitch_network_transmit_bytes_total{{{labels}}}",
        "values": "0+600x10",
    }


def described(container_id: str, container: str) -> dict[str, str]:
    labels = f'namespace="shop",pod="cart",container="{container}",container_id="{container_id}"'
    return {"series": f'kube_pod_container_info{{{labels},image="i"}}', "values": "1x10"}


def test_join_names_containers_when_only_their_ids_are_known(tmp_path: Path) -> None:
    found = re.search(r"```promql\n(.+?)```", PAGE.read_text(), re.DOTALL)
    assert found
    case = {
        "rule_files": [],
        "evaluation_interval": "1m",
        "tests": [
            {
                "interval": "1m",
                "input_series": [
                    sent(ID),
                    sent(OTHER_ID),
                    sent("web", pod="named-already"),
                    described(f"containerd://{ID}", "web"),
                    described("", "waits"),
                ],
                "promql_expr_test": [
                    {
                        "expr": found[1],
                        "eval_time": "10m",
                        "exp_samples": [
                            {
                                "labels": '{exe="/bin/x", sha256="ab", namespace="shop", '
                                'pod="cart", container="web"}',
                                "value": 10,
                            }
                        ],
                    }
                ],
            }
        ],
    }
    file = tmp_path / "join.yml"
    file.write_text(yaml.safe_dump(case))
    result = subprocess.run(
        ["promtool", "test", "rules", str(file)], capture_output=True, check=False, text=True
    )

    assert result.returncode == 0, result.stdout + result.stderr
